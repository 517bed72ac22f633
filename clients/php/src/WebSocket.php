<?php

declare(strict_types=1);

namespace Connmix;

/** As much of a WebSocket client (RFC 6455) as the engine's API takes: text, pings, closing; no extensions. */
final class WebSocket
{
    public const TEXT = 0x1;
    public const BINARY = 0x2;
    private const CLOSE = 0x8;
    private const PING = 0x9;
    private const PONG = 0xA;
    private const MAX_HEAD = 16384;
    private const MAX_MESSAGE = 64 << 20;

    /** @var resource */
    private $stream;
    /** What has come and is not used yet. */
    private string $bytes = '';
    /** The fragments of a message so far. */
    private string $message = '';

    /**
     * Connects to an address such as http://host:port/path; https and wss with TLS, by a stream context if one is given.
     *
     * @param string[] $headers
     * @param resource|null $context
     */
    public function __construct(string $url, array $headers, float $deadline, $context = null)
    {
        $parts = parse_url($url);
        $secure = in_array($parts['scheme'] ?? '', ['https', 'wss'], true);
        if (!$secure && !in_array($parts['scheme'] ?? '', ['http', 'ws'], true) || !isset($parts['host'])) {
            throw new \InvalidArgumentException("no http, https, ws or wss: $url");
        }
        $address = $parts['host'] . ':' . ($parts['port'] ?? ($secure ? 443 : 80));
        $left = max(0.001, $deadline - microtime(true));
        $context ??= stream_context_create();
        error_clear_last();
        $stream = @stream_socket_client(($secure ? 'tls' : 'tcp') . "://$address", $code, $text, $left, STREAM_CLIENT_CONNECT, $context);
        if ($stream === false) {
            // What is wrong with a certificate is told by a warning alone.
            throw new Closed($text ?: error_get_last()['message'] ?? 'no connection', 1006);
        }
        $this->stream = $stream;
        stream_set_blocking($stream, false);
        $key = base64_encode(random_bytes(16));
        $lines = ['GET ' . ($parts['path'] ?? '/') . ' HTTP/1.1', "Host: $address", 'Connection: Upgrade', 'Upgrade: websocket',
            'Sec-WebSocket-Version: 13', "Sec-WebSocket-Key: $key", ...$headers];
        $this->write(implode("\r\n", $lines) . "\r\n\r\n", $deadline);
        while (($end = strpos($this->bytes, "\r\n\r\n")) === false) {
            if (strlen($this->bytes) > self::MAX_HEAD || !$this->more($deadline)) {
                throw new Closed('the handshake was not answered', 1006);
            }
        }
        $head = substr($this->bytes, 0, $end);
        $this->bytes = substr($this->bytes, $end + 4);
        if (!preg_match('#^HTTP/1\.\d (\d{3}.*)#', $head, $status)) {
            throw new Closed('no HTTP answer', 1006);
        }
        if (!str_starts_with($status[1], '101')) {
            throw new Refused('refused with HTTP ' . trim($status[1]), (int) $status[1]);
        }
        $accept = base64_encode(sha1($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11', true));
        if (!preg_match('#^sec-websocket-accept:\s*' . preg_quote($accept, '#') . '\s*$#mi', $head)) {
            throw new Closed('the answer is to another handshake', 1006);
        }
    }

    /** The next message, or null if none has come at that time. Pings are answered meanwhile. */
    public function receive(float $deadline): ?string
    {
        while (true) {
            $frame = $this->frame();
            if ($frame === null) {
                if (!$this->more($deadline)) {
                    return null;
                }
                continue;
            }
            [$first, $data] = $frame;
            switch ($first & 0x0F) {
                case self::PING:
                    $this->sendFrame(self::PONG, $data);
                    break;
                case self::CLOSE:
                    $code = strlen($data) >= 2 ? unpack('n', $data)[1] : 1005;
                    $reason = substr($data, 2);
                    try {
                        $this->sendFrame(self::CLOSE, substr($data, 0, 2));
                    } catch (Closed) {
                        // It has said all it had to.
                    }
                    throw new Closed(rtrim("closed with $code $reason"), $code);
                case 0:
                case self::TEXT:
                case self::BINARY:
                    $this->message .= $data;
                    if ($first & 0x80) {
                        $message = $this->message;
                        $this->message = '';
                        return $message;
                    }
            }
        }
    }

    public function send(string $text): void
    {
        $this->sendFrame(self::TEXT, $text);
    }

    public function close(): void
    {
        try {
            $this->sendFrame(self::CLOSE, pack('n', 1000));
        } catch (Closed) {
            // It has ended already.
        }
        fclose($this->stream);
    }

    /** A whole frame, its first byte and its data. */
    private function frame(): ?array
    {
        $have = strlen($this->bytes);
        if ($have < 2) {
            return null;
        }
        $length = ord($this->bytes[1]);
        $head = match ($length & 0x7F) {
            126 => 4,
            127 => 10,
            default => 2,
        };
        if ($have < $head) {
            return null;
        }
        $length = match ($head) {
            4 => unpack('n', $this->bytes, 2)[1],
            10 => unpack('J', $this->bytes, 2)[1],
            default => $length,
        };
        if ($length < 0 || strlen($this->message) + $length > self::MAX_MESSAGE || ord($this->bytes[1]) & 0x80) {
            throw new Closed('a frame that is masked or too large', 1002);
        }
        if ($have < $head + $length) {
            return null;
        }
        $frame = [ord($this->bytes[0]), substr($this->bytes, $head, $length)];
        $this->bytes = substr($this->bytes, $head + $length);
        return $frame;
    }

    private function sendFrame(int $opcode, string $data): void
    {
        $n = strlen($data);
        $length = $n < 126 ? chr(0x80 | $n) : ($n < 65536 ? pack('Cn', 0xFE, $n) : pack('CJ', 0xFF, $n));
        $mask = random_bytes(4);
        $this->write(chr(0x80 | $opcode) . $length . $mask . ($data ^ str_pad('', $n, $mask)), microtime(true) + 10);
    }

    /** Waits until something has come, and takes it; false when the time is over. */
    private function more(float $deadline): bool
    {
        while (true) {
            $piece = @fread($this->stream, 65536);
            if ($piece !== '' && $piece !== false) {
                $this->bytes .= $piece;
                return true;
            }
            if (feof($this->stream)) {
                throw new Closed('the connection broke', 1006);
            }
            if (!$this->wait($deadline, true)) {
                return false;
            }
        }
    }

    private function write(string $bytes, float $deadline): void
    {
        while ($bytes !== '') {
            $n = @fwrite($this->stream, $bytes);
            if ($n === false || $n === 0 && feof($this->stream)) {
                throw new Closed('the connection broke', 1006);
            }
            $bytes = substr($bytes, $n);
            if ($bytes !== '' && !$this->wait($deadline, false)) {
                throw new Closed('nothing is taken', 1006);
            }
        }
    }

    /** Until the socket can be read or written, or a signal came; false when the time is over. */
    private function wait(float $deadline, bool $reading): bool
    {
        $left = $deadline - microtime(true);
        if ($left <= 0) {
            return false;
        }
        $read = $reading ? [$this->stream] : null;
        $write = $reading ? null : [$this->stream];
        $except = null;
        @stream_select($read, $write, $except, (int) $left, (int) (fmod($left, 1) * 1e6));
        return true;
    }
}
