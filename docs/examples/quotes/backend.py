"""Publishes quotes of a random walk: python3 backend.py [QUOTES_A_SECOND], 400 unless given"""

import http.client, json, os, random, sys, time
from urllib.parse import urlsplit

BOARDS = {
    "crypto": {"BTC-USD": 64000.0, "ETH-USD": 3100.0, "SOL-USD": 150.0, "XRP-USD": 0.6, "ADA-USD": 0.45, "DOT-USD": 6.5},
    "metals": {"XAU-USD": 2350.0, "XAG-USD": 28.0, "XPT-USD": 980.0, "XPD-USD": 960.0},
}
SEQ = dict.fromkeys(BOARDS, 0)
PER_REQUEST = 20


def quote():
    """A publish: the price of some symbol has changed."""
    board = random.choice(list(BOARDS))
    prices = BOARDS[board]
    symbol = random.choice(list(prices))
    prices[symbol] *= 1 + random.gauss(0, 0.0005)
    SEQ[board] += 1
    data = {"board": board, "symbol": symbol, "price": round(prices[symbol], 4), "seq": SEQ[board]}
    # The key says what the quote is about: a newer one with the same key makes this one worthless.
    return {"c": "board:" + board, "k": symbol, "d": json.dumps(data)}


def main():
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 400
    url = urlsplit(os.environ.get("CONNMIX_API", "http://127.0.0.1:6789"))
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=5)
    sent, began = 0, time.monotonic()
    while True:
        # Many publishes in one request: an array.
        body = json.dumps([quote() for _ in range(PER_REQUEST)])
        connection.request("POST", "/v1/mesh/publish", body, {"Content-Type": "application/json"})
        reply = json.load(connection.getresponse())
        for part in reply if isinstance(reply, list) else [reply]:
            if part["E"]:
                sys.exit(f"not published: {part['E']['m']}")
        sent += PER_REQUEST
        time.sleep(max(0, began + sent / rate - time.monotonic()))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (OSError, http.client.HTTPException) as e:
        sys.exit(f"not published: {e}")
