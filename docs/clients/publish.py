"""Publishes each line of its input to a channel: python3 publish.py news"""

import base64, http.client, json, os, sys
from urllib.parse import urlsplit


class PublishError(Exception):
    """The engine's refusal."""


class Publisher:
    """Keeps one connection; for one thread at a time."""

    def __init__(self, api, user):
        url = urlsplit(api)
        self.connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=5)
        self.headers = {
            "Authorization": "Basic " + base64.b64encode(user.encode()).decode(),
            "Content-Type": "application/json",
        }

    def publish(self, channel, data):
        """The connections reached, and those that could not be."""
        body = json.dumps({"c": channel, "d": data})
        try:
            status, text = self.post(body)
        except ConnectionError:
            # The engine closes what is idle for long. It may have ended later, too: then this message arrives twice.
            status, text = self.post(body)
        try:
            answer = json.loads(text)
        except ValueError:
            raise PublishError(f"HTTP {status}") from None
        if answer["E"]:
            raise PublishError(f"HTTP {status}, {answer['E']['c']}: {answer['E']['m']}")
        return answer["r"]["s"], answer["r"]["f"]

    def post(self, body):
        try:
            self.connection.request("POST", "/v1/mesh/publish", body, self.headers)
            reply = self.connection.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()  # the next request opens it again
            raise


if __name__ == "__main__":
    publisher = Publisher(
        os.environ.get("CONNMIX_API", "http://127.0.0.1:6789"), os.environ.get("CONNMIX_USER", "backend:change-me"))
    for line in sys.stdin:
        try:
            reached, failed = publisher.publish(sys.argv[1], line.rstrip("\n"))
            print(f"reached {reached}, failed {failed}", flush=True)
        except (PublishError, OSError, http.client.HTTPException) as e:
            sys.exit(f"not published: {e}")
