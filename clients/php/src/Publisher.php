<?php

declare(strict_types=1);

namespace Connmix;

/**
 * Keeps one connection, and makes it again when it must. Connects at the first call.
 *
 * One for the whole process; in PHP-FPM, for a request, or for the worker with a runtime that keeps objects.
 */
final class Publisher
{
    private ?Link $link = null;
    private int $failures = 0;

    /**
     * @param string $url an engine's API, such as http://127.0.0.1:6789
     * @param array{user?: string, password?: string, token?: string, context?: resource, timeout?: float} $options `timeout`: seconds
     *     that a call may take, with all attempts; 10 unless given. `context`: a stream context, for TLS
     */
    public function __construct(private string $url, private array $options = [])
    {
    }

    /**
     * Publishes a message to a channel. One whose reply is lost with the connection is published again by its id: it is delivered once.
     * Throws CallError if the engine refuses it, Refused if it refuses this caller, TimedOut when it could not be reached.
     *
     * @param array{id?: string, exclude?: string[], key?: string, priority?: string, binary?: bool, timeout?: float} $options `exclude`: ids of
     *     clients that do not get it; `key` and `priority` ("high", "normal", "low") are for channels whose rule asks for them
     */
    public function publish(string $channel, string $data, array $options = []): Published
    {
        $params = ['c' => $channel] + self::data($data, $options) + ['id' => $options['id'] ?? bin2hex(random_bytes(16))];
        if (($options['exclude'] ?? []) !== []) {
            $params['x'] = array_values($options['exclude']);
        }
        foreach (['key' => 'k', 'priority' => 'pr'] as $option => $field) {
            if (isset($options[$option])) {
                $params[$field] = $options[$option];
            }
        }
        $r = $this->ask('mesh.publish', $params, $options, true);
        return new Published($r['s'], $r['f'], $r['u'] ?? 0, isset($r['l']), $r['p'] ?? null, isset($r['m']));
    }

    /**
     * Sends to one client, and returns whether it is there. Not repeated: after Closed it may have been sent.
     *
     * @param array{binary?: bool, timeout?: float} $options
     */
    public function send(string $client, string $data, array $options = []): bool
    {
        try {
            $this->ask('mesh.send', ['c' => $client] + self::data($data, $options), $options, false);
            return true;
        } catch (CallError $e) {
            if ($e->getCode() === 401) {
                return false;
            }
            throw $e;
        }
    }

    /**
     * Any method of the WebSocket API; its `r`. Not repeated.
     *
     * @param array{timeout?: float} $options
     */
    public function call(string $method, mixed $params, array $options = []): mixed
    {
        return $this->ask($method, $params, $options, false);
    }

    public function close(): void
    {
        $this->link?->close();
        $this->link = null;
    }

    private static function data(string $data, array $options): array
    {
        return $options['binary'] ?? false ? ['d' => base64_encode($data), 't' => 'binary'] : ['d' => $data];
    }

    private function ask(string $method, mixed $params, array $options, bool $again): mixed
    {
        $timeout = $options['timeout'] ?? $this->options['timeout'] ?? 10.0;
        $deadline = microtime(true) + $timeout;
        // What a connection said while nobody looked, its end perhaps, is heard before it is used.
        try {
            $this->link?->breathe();
        } catch (\RuntimeException | \JsonException) {
            $this->drop();
        }
        $last = '';
        while (microtime(true) < $deadline) {
            try {
                $this->link ??= $this->connect($deadline);
            } catch (Closed $e) {
                if ($e instanceof Refused && $e->getCode() < 500) {
                    throw $e;
                }
                $last = "; {$e->getMessage()}";
                continue;   // the pause is in front of the next attempt
            }
            try {
                return $this->link->call($method, $params, $deadline);
            } catch (Closed $e) {
                $this->drop();
                if (!$again) {
                    throw $e;
                }
                $last = "; {$e->getMessage()}";
            }
        }
        throw new TimedOut("$method: no reply within $timeout s$last");
    }

    private function connect(float $deadline): Link
    {
        if ($this->failures > 0) {
            $left = max(0, $deadline - microtime(true));
            usleep((int) (min(Pause::after($this->failures, 0.1, 5), $left) * 1e6));
        }
        $this->failures++;
        $link = new Link($this->url, $this->options, $deadline);
        $this->failures = 0;
        return $link;
    }

    private function drop(): void
    {
        $this->link?->close();
        $this->link = null;
    }
}
