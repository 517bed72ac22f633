<?php

declare(strict_types=1);

namespace Connmix;

/**
 * Takes the messages of topics from one engine, one after the other.
 *
 * A message is settled when the handler returns. If it throws, that is logged, and the message comes again, to this consumer or another,
 * after a pause that grows with each failure in a row. So may one whose connection breaks: what it leads to must bear that it comes twice.
 */
final class Consumer
{
    /** A connection is asked with a ping when it has been silent for so long, and given up when it says nothing for as long again. */
    private const SILENCE = 20.0;

    private bool $stopping = false;
    private int $failures = 0;
    private \Closure $handler;
    private \Closure $log;

    /**
     * @param string $url an engine's API, such as http://127.0.0.1:6789
     * @param string[] $topics
     * @param callable(Message): mixed $handler
     * @param array{user?: string, password?: string, token?: string, context?: resource, log?: callable(string): mixed} $options `log` gets
     *     a line for what goes wrong; `error_log` unless given
     */
    public function __construct(private string $url, private array $topics, callable $handler, private array $options = [])
    {
        $this->handler = $handler(...);
        $this->log = ($options['log'] ?? 'error_log')(...);
    }

    /** Consumes until `stop` is called. A connection that breaks is made again; nothing is thrown for it. */
    public function run(): void
    {
        while (!$this->stopping) {
            try {
                $this->connection();
            } catch (\InvalidArgumentException $e) {
                throw $e;
            } catch (\Throwable $e) {
                ($this->log)("connmix: no connection: {$e->getMessage()}");
            }
            if (!$this->stopping) {
                $end = microtime(true) + Pause::after(++$this->failures, 0.5, 30);
                while (!$this->stopping && microtime(true) < $end) {
                    usleep(10_000);
                }
            }
        }
    }

    /** Ends `run` once the message that is being worked on is settled: for handlers, and for those of signals (pcntl_async_signals). */
    public function stop(): void
    {
        $this->stopping = true;
    }

    private function connection(): void
    {
        $link = new Link($this->url, $this->options);
        try {
            $link->call('queue.pop', ['t' => $this->topics, 'ack' => true], microtime(true) + self::SILENCE);
            $heard = microtime(true);
            $asked = false;
            while (!$this->stopping) {
                // Short, so that `stop` is noticed where no signal ends the wait.
                $event = $link->event(microtime(true) + 0.5);
                if ($event !== null) {
                    $this->settle($link, $event);
                    $heard = microtime(true);
                    $asked = false;
                } elseif (microtime(true) - $heard > self::SILENCE) {
                    if ($asked) {
                        throw new Closed('silence', 1006);
                    }
                    $link->ping();
                    $heard = microtime(true);
                    $asked = true;
                } elseif ($asked && $link->answered()) {
                    $asked = false;
                }
            }
            // Its reply comes behind those of all calls before, so that nothing is on its way when the connection ends.
            $link->call('queue.unpop', new \stdClass(), microtime(true) + 5);
        } finally {
            $link->close();
        }
    }

    private function settle(Link $link, array $event): void
    {
        $message = new Message($event['t'], $event['d'], $event['c'], $event['n'], $link, $this->log);
        try {
            ($this->handler)($message);
        } catch (\Throwable $e) {
            ($this->log)("connmix: a message of {$message->topic} was not worked off, and comes again: $e");
            throw $e;
        }
        $link->later('queue.ack', [$event['k']], fn (string $error) => ($this->log)("connmix: not settled: $error"));
        $this->failures = 0;
    }
}
