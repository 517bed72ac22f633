<?php
// Publishes each line of its input to a channel: php publish.php news
// It needs PHP's curl extension, which most installations have (Debian: php-curl).

class Publisher
{
    private CurlHandle $curl;   // used again and again, it keeps its connection

    public function __construct(string $api, string $user)
    {
        $this->curl = curl_init("$api/v1/mesh/publish");
        curl_setopt_array($this->curl, [
            CURLOPT_USERPWD => $user,
            CURLOPT_HTTPHEADER => ['Content-Type: application/json'],
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_TIMEOUT => 5,
        ]);
    }

    /** The counts of connections: "s" reached, "f" not. */
    public function publish(string $channel, string $data): array
    {
        $body = json_encode(['c' => $channel, 'd' => $data], JSON_THROW_ON_ERROR);
        curl_setopt($this->curl, CURLOPT_POSTFIELDS, $body);
        $text = curl_exec($this->curl);
        if ($text === false) {
            throw new RuntimeException(curl_error($this->curl));
        }
        $status = curl_getinfo($this->curl, CURLINFO_RESPONSE_CODE);
        $answer = json_decode($text, true);
        if (!is_array($answer)) {
            throw new RuntimeException("HTTP $status");   // not the engine's: of a proxy, for example
        }
        if ($answer['E'] !== null) {
            throw new RuntimeException("HTTP $status, {$answer['E']['c']}: {$answer['E']['m']}");
        }
        return $answer['r'];
    }
}

$publisher = new Publisher(
    getenv('CONNMIX_API') ?: 'http://127.0.0.1:6789',
    getenv('CONNMIX_USER') ?: 'backend:change-me'
);
while (($line = fgets(STDIN)) !== false) {
    try {
        $counts = $publisher->publish($argv[1], rtrim($line, "\n"));
        echo "reached {$counts['s']}, failed {$counts['f']}\n";
    } catch (Exception $e) {
        fwrite(STDERR, "not published: {$e->getMessage()}\n");
        exit(1);
    }
}
