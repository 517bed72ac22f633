<?php
// Logs clients in: takes messages from the queue "login", and tells the engine who each client is: php consume.php
// PHP has no WebSocket client of its own, so here is as much of one as the engine's API takes.

class WebSocket
{
    private $stream;

    public function __construct(string $host, string $path, string $user)
    {
        $this->stream = @stream_socket_client("tcp://$host", $code, $message, 5)
            ?: throw new RuntimeException($message);
        stream_set_timeout($this->stream, 90);   // the engine pings after 30 s: longer silence is a dead connection
        $this->write("GET $path HTTP/1.1\r\nHost: $host\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            . 'Sec-WebSocket-Version: 13' . "\r\nSec-WebSocket-Key: " . base64_encode(random_bytes(16))
            . "\r\nAuthorization: Basic " . base64_encode($user) . "\r\n\r\n");
        $status = trim((string) fgets($this->stream));
        if (!str_starts_with($status, 'HTTP/1.1 101')) {
            throw new RuntimeException($status ?: 'no answer');
        }
        while (!in_array(fgets($this->stream), ["\r\n", false], true));
    }

    /** The next text; pings are answered meanwhile. */
    public function receive(): string
    {
        while (true) {
            ['type' => $type, 'length' => $length] = unpack('Ctype/Clength', $this->read(2));
            $length = match ($length) {
                126 => unpack('n', $this->read(2))[1],
                127 => unpack('J', $this->read(8))[1],
                default => $length,
            };
            $data = $this->read($length);
            switch ($type) {
                case 0x81: return $data;                      // text; the engine sends it in one piece
                case 0x89: $this->send($data, 0x8A); break;   // ping
                case 0x88: throw new RuntimeException('closed with ' . implode(' ', unpack('ncode/A*reason', "$data\0\0")));
            }
        }
    }

    public function send(string $data, int $type = 0x81): void
    {
        $n = strlen($data);
        $length = $n < 126 ? chr(0x80 | $n) : ($n < 65536 ? pack('Cn', 0xFE, $n) : pack('CJ', 0xFF, $n));
        $mask = random_bytes(4);
        $this->write(chr($type) . $length . $mask . ($data ^ str_pad('', $n, $mask)));
    }

    private function read(int $n): string
    {
        for ($data = ''; strlen($data) < $n; $data .= $piece) {
            $piece = fread($this->stream, $n - strlen($data));
            if ($piece === '' || $piece === false) {
                throw new RuntimeException('the connection broke');
            }
        }
        return $data;
    }

    private function write(string $data): void
    {
        if (@fwrite($this->stream, $data) !== strlen($data)) {
            throw new RuntimeException('the connection broke');
        }
    }
}

const USERS = ['ann-token' => 1001, 'bob-token' => 1002];   // a database, in earnest

function ask(WebSocket $ws, string $method, array $params): void
{
    $ws->send(json_encode(['m' => $method, 'p' => $params, 'i' => $method]));
}

function login(WebSocket $ws, array $message): void
{
    $client = $message['c'];
    $uid = USERS[$message['d']['token']] ?? null;
    if ($uid === null) {
        ask($ws, 'conn.call', ['c' => $client, 'f' => 'close', 'a' => [4001, 'please log in']]);
    } else {
        // In this order: when the client hears of its login, it is in its channel.
        ask($ws, 'conn.call', ['c' => $client, 'f' => 'subscribe', 'a' => ["user:$uid"]]);
        ask($ws, 'conn.call', ['c' => $client, 'f' => 'set_context_value', 'a' => ['uid', $uid]]);
    }
    echo "client $client: user ", $uid ?? 'unknown', "\n";
    // Last: whatever breaks before leaves the message to be delivered again.
    ask($ws, 'queue.ack', [$message['k']]);
}

$host = preg_replace('#^http://#', '', getenv('CONNMIX_API') ?: 'http://127.0.0.1:6789');
for ($wait = 500; true; $wait = min($wait * 2, 30000)) {
    try {
        $ws = new WebSocket($host, '/ws/v1', getenv('CONNMIX_USER') ?: 'backend:change-me');
        $wait = 500;
        ask($ws, 'queue.pop', ['t' => ['login'], 'ack' => true]);
        while (true) {
            $message = json_decode($ws->receive(), true);
            if (($message['e'] ?? null) === 'queue.pop') {
                login($ws, $message['p']);
            } elseif ($message['E'] !== null) {
                echo "{$message['i']}: {$message['E']['c']}, {$message['E']['m']}\n";
            } elseif ($message['i'] === 'queue.pop') {
                echo "consuming\n";
            }
        }
    } catch (RuntimeException $e) {
        echo "no connection: {$e->getMessage()}\n";
    }
    $ws = $e = null;   // closes what is left of the connection: its messages are another consumer's now
    // Later each time, and not all consumers at once.
    usleep(random_int(500, 1000) * $wait);
}
