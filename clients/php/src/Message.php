<?php

declare(strict_types=1);

namespace Connmix;

/** What a handler of the engine pushed. What is done to its client happens in its order, before the message is settled; nothing waits. */
final class Message
{
    /** @param string $client the id of the client whose handler it was */
    public function __construct(
        public readonly string $topic,
        public readonly mixed $data,
        public readonly string $client,
        public readonly string $node,
        private Link $link,
        private \Closure $log,
    ) {
    }

    /** Has the client's connection do something, as `conn.call` of the API. One that fails, since it has left perhaps, is logged. */
    public function call(string $function, mixed ...$arguments): void
    {
        $this->later('conn.call', ['c' => $this->client, 'f' => $function, 'a' => $arguments]);
    }

    public function subscribe(string ...$channels): void
    {
        $this->call('subscribe', ...$channels);
    }

    public function unsubscribe(string ...$channels): void
    {
        $this->call('unsubscribe', ...$channels);
    }

    /** Sets values of the client's context: a handler in `conn:wait_context_value` goes on. */
    public function setContext(array $values): void
    {
        $this->call('set_context', (object) $values);
    }

    public function close(int $code = 1000, string $reason = ''): void
    {
        $this->call('close', $code, $reason);
    }

    public function send(string $data): void
    {
        $this->later('mesh.send', ['c' => $this->client, 'd' => $data]);
    }

    /** For a handler that works for longer than some 20 s: says to the engine that this consumer lives. */
    public function keepAlive(): void
    {
        $this->link->ping();
        $this->link->breathe();
    }

    private function later(string $method, array $params): void
    {
        $this->link->later($method, $params, fn (string $error) => ($this->log)("connmix: a call failed: $error"));
    }
}
