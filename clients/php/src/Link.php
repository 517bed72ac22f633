<?php

declare(strict_types=1);

namespace Connmix;

/** One connection to an engine's WebSocket API (/ws/v1): calls and their replies, and events. */
final class Link
{
    private const CONNECT_TIMEOUT = 5.0;

    private WebSocket $ws;
    private int $number = 0;
    /** Events that have come while a reply was waited for. */
    private array $events = [];
    /** Calls whose replies nobody waits for: number to what is told of an error. */
    private array $unwatched = [];
    /** Whether anything has come since the last ping. */
    private bool $answered = true;

    /** @param array{user?: string, password?: string, token?: string, context?: resource} $options */
    public function __construct(string $url, array $options, ?float $deadline = null)
    {
        $headers = [];
        if (isset($options['token'])) {
            $headers[] = "Authorization: Bearer {$options['token']}";
        } elseif (isset($options['user'])) {
            $headers[] = 'Authorization: Basic ' . base64_encode($options['user'] . ':' . ($options['password'] ?? ''));
        }
        $deadline = min($deadline ?? INF, microtime(true) + self::CONNECT_TIMEOUT);
        $this->ws = new WebSocket(rtrim($url, '/') . '/ws/v1', $headers, $deadline, $options['context'] ?? null);
    }

    /** Makes a call and waits for its reply: `r`. Throws CallError, Closed or TimedOut. */
    public function call(string $method, mixed $params, float $deadline): mixed
    {
        $number = $this->send($method, $params);
        while (true) {
            $message = $this->next($deadline);
            if ($message === null) {
                throw new TimedOut("$method: no reply in time");
            }
            if (isset($message['e'])) {
                $this->events[] = $message['p'];
            } elseif (($message['i'] ?? null) === $number) {
                if (isset($message['E'])) {
                    throw new CallError($message['E']['m'], $message['E']['c']);
                }
                return $message['r'] ?? null;
            }
        }
    }

    /** Makes a call that nobody waits for; `$told` gets the text of an error. */
    public function later(string $method, mixed $params, callable $told): void
    {
        $this->unwatched[$this->send($method, $params)] = $told;
    }

    /** The next event's `p`, or null if none has come at that time. */
    public function event(float $deadline): ?array
    {
        while ($this->events === []) {
            $message = $this->next($deadline);
            if ($message === null) {
                return null;
            }
            if (isset($message['e'])) {
                $this->events[] = $message['p'];
            }
        }
        return array_shift($this->events);
    }

    /** Asks for a sign of life. */
    public function ping(): void
    {
        $this->answered = false;
        $this->ws->send('ping');
    }

    public function answered(): bool
    {
        return $this->answered;
    }

    /** Takes what has come, and answers pings: for those who are busy for long. */
    public function breathe(): void
    {
        while (($message = $this->next(0)) !== null) {
            if (isset($message['e'])) {
                $this->events[] = $message['p'];
            }
        }
    }

    public function close(): void
    {
        $this->ws->close();
    }

    private function send(string $method, mixed $params): int
    {
        $call = ['m' => $method, 'p' => $params, 'i' => ++$this->number];
        $this->ws->send(json_encode($call, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES));
        return $this->number;
    }

    /** The next message; replies that nobody waits for are seen to. */
    private function next(float $deadline): ?array
    {
        while (($text = $this->ws->receive($deadline)) !== null) {
            $this->answered = true;
            if ($text === 'pong') {
                return ['pong' => true];
            }
            $message = json_decode($text, true, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
            $told = $this->unwatched[$message['i'] ?? ''] ?? null;
            if ($told === null) {
                return $message;
            }
            unset($this->unwatched[$message['i']]);
            if (isset($message['E'])) {
                $told("{$message['E']['c']}: {$message['E']['m']}");
            }
        }
        return null;
    }
}
