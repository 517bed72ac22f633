<?php

// Against a real engine:  CONNMIX=target/release/connmix php tests/run.php

declare(strict_types=1);

use Connmix\CallError;
use Connmix\Consumer;
use Connmix\Message;
use Connmix\Publisher;
use Connmix\Refused;
use Connmix\TimedOut;
use Connmix\WebSocket;

error_reporting(E_ALL);
set_error_handler(function (int $level, string $text, string $file, int $line): bool {
    if (error_reporting() & $level) {
        throw new ErrorException($text, 0, $level, $file, $line);
    }
    return true;
});
spl_autoload_register(fn (string $class) => require dirname(__DIR__) . '/src/' . substr($class, strlen('Connmix\\')) . '.php');

const BACKEND = ['user' => 'backend', 'password' => 'change-me'];

/** Below those that the system gives to sockets by itself. */
function freePort(): int
{
    while (true) {
        $port = random_int(10240, 31000);
        if ($server = @stream_socket_server("tcp://127.0.0.1:$port")) {
            fclose($server);
            return $port;
        }
    }
}

function until(string $what, callable $condition): void
{
    for ($end = microtime(true) + 30; microtime(true) < $end; usleep(10_000)) {
        if ($condition()) {
            return;
        }
    }
    throw new Exception("it never came to that: $what");
}

function equal(mixed $got, mixed $want): void
{
    if ($got !== $want) {
        throw new Exception('got ' . json_encode($got) . ', wanted ' . json_encode($want));
    }
}

/** @template T of Throwable @param class-string<T> $class @return T */
function fails(string $class, callable $work): Throwable
{
    try {
        $work();
    } catch (Throwable $e) {
        if ($e instanceof $class) {
            return $e;
        }
        throw $e;
    }
    throw new Exception("no $class");
}

/** Runs from start to kill, and may be started again at the same ports. */
final class Engine
{
    public readonly int $port;
    public readonly int $apiPort;
    private $process = null;

    public function __construct()
    {
        $this->port = freePort();
        $this->apiPort = freePort();
        $this->start();
    }

    public function url(): string
    {
        return "http://127.0.0.1:{$this->apiPort}";
    }

    public function start(): void
    {
        $files = dirname(__DIR__, 2) . '/testing';
        $command = [getenv('CONNMIX') ?: 'connmix', 'single', '-f', "$files/connmix.yaml"];
        $null = ['file', '/dev/null', 'w'];
        $env = ['PORT' => (string) $this->port, 'API_PORT' => (string) $this->apiPort] + getenv();
        $this->process = proc_open($command, [['file', '/dev/null', 'r'], $null, $null], $pipes, $files, $env);
        until('the engine serves', fn () => is_resource($socket = @stream_socket_client("tcp://127.0.0.1:{$this->apiPort}")) && fclose($socket));
    }

    public function kill(): void
    {
        if ($this->process !== null) {
            proc_terminate($this->process, 9);
            proc_close($this->process);
            $this->process = null;
        }
    }

    public function client(?string $channel = null): Client
    {
        $client = new Client(new WebSocket("ws://127.0.0.1:{$this->port}/ws", [], microtime(true) + 30));
        if ($channel !== null) {
            $client->id = $client->ask(['subscribe' => $channel])['client'];
        }
        return $client;
    }

    /** Consumes until the handler has said so: by its message's `stop`. */
    public function consume(callable $handler): void
    {
        $consumer = null;
        $consumer = new Consumer($this->url(), ['jobs', 'login'], function (Message $message) use ($handler, &$consumer) {
            if ($handler($message) === 'stop') {
                $consumer->stop();
            }
        }, BACKEND + ['log' => fn () => null]);
        $consumer->run();
    }

    /** That another consumer gets nothing that was pushed before. */
    public function allIsSettled(): void
    {
        $this->client()->ask(['push' => 'the last']);
        $seen = [];
        $this->consume(function (Message $message) use (&$seen) {
            $seen[] = $message->data;
            return 'stop';
        });
        equal($seen, ['the last']);
    }
}

/** What a browser would be. */
final class Client
{
    public ?string $id = null;

    public function __construct(private WebSocket $ws)
    {
    }

    public function say(array $what): void
    {
        $this->ws->send(json_encode($what));
    }

    public function next(): string
    {
        return $this->ws->receive(microtime(true) + 30) ?? throw new Exception('no message came');
    }

    public function ask(array $what): array
    {
        $this->say($what);
        return json_decode($this->next(), true);
    }
}

$tests = [
    'a message reaches its channel as it is' => function (Engine $engine) {
        $publisher = new Publisher($engine->url(), BACKEND);
        $client = $engine->client('news');
        foreach (['Hello', '{"quoted":"\"back\\\\slash\"	tab"}', '视频 😀 é', str_repeat('x', 70000)] as $data) {
            $published = $publisher->publish('news', $data);
            equal([$published->reached, $published->failed, $published->unanswered], [1, 0, 0]);
            equal($client->next(), $data);
        }
        $publisher->publish('news', "\0\xFF", ['binary' => true]);
        equal($client->next(), "\0\xFF");
        equal($publisher->publish('news', 'not you', ['exclude' => [$client->id]])->reached, 0);
        $first = $publisher->publish('limited:1', 'a', ['key' => 'a', 'priority' => 'normal']);
        $second = $publisher->publish('limited:1', 'b');
        equal([$first->position !== null, $first->leftOut, $second->leftOut, $second->merged], [true, false, true, false]);
        $alike = array_map(fn () => $publisher->publish('merged:1', 'a', ['key' => 'a'])->merged, range(1, 3));
        equal(end($alike), true);
        equal($publisher->send($client->id, 'only you'), true);
        equal($client->next(), 'only you');
        equal($publisher->send('7', 'nobody'), false);
        equal($publisher->call('mesh.count', ['c' => 'news']), ['n' => 1]);
        $publisher->close();
        equal($publisher->publish('news', 'again')->reached, 1);
    },
    'errors say what is wrong' => function (Engine $engine) {
        $publisher = new Publisher($engine->url(), ['token' => 'a-long-random-token']);
        $e = fails(CallError::class, fn () => $publisher->publish('two words', 'Hello'));
        equal([$e->getCode(), str_contains($e->getMessage(), 'space')], [101, true]);
        $stranger = new Publisher($engine->url(), ['password' => 'wrong'] + BACKEND);
        equal(fails(Refused::class, fn () => $stranger->publish('news', 'Hello'))->getCode(), 401);
        fails(InvalidArgumentException::class, fn () => (new Publisher('ftp://127.0.0.1'))->publish('news', 'Hello'));
    },
    'a publisher comes back when the engine does' => function (Engine $engine) {
        $publisher = new Publisher($engine->url(), BACKEND);
        $publisher->publish('news', 'before');
        $engine->kill();
        $e = fails(TimedOut::class, fn () => $publisher->publish('news', 'lost', ['timeout' => 0.3]));
        equal(str_starts_with($e->getMessage(), 'mesh.publish: no reply within 0.3 s; '), true);
        $engine->start();
        $client = $engine->client('news');
        equal($publisher->publish('news', 'after', ['timeout' => 30.0])->reached, 1);
        equal($client->next(), 'after');
    },
    'what lost its reply is delivered once' => function (Engine $engine) {
        // Between the two stands a relay, which gives no reply to the second publish through, and ends that connection.
        $port = freePort();
        $relay = proc_open([PHP_BINARY, __DIR__ . '/relay.php', (string) $port, (string) $engine->apiPort], [], $pipes);
        until('the relay serves', fn () => is_resource($socket = @stream_socket_client("tcp://127.0.0.1:$port")) && fclose($socket));
        $publisher = new Publisher("http://127.0.0.1:$port", BACKEND);
        $client = $engine->client('news');
        foreach (['first', 'Hello', 'last'] as $data) {
            equal($publisher->publish('news', $data)->reached, 1);
            equal($client->next(), $data);
        }
        proc_terminate($relay, 9);
        proc_close($relay);
    },
    'a consumer logs a client in' => function (Engine $engine) {
        $client = $engine->client();
        $client->ask(['push' => 1001, 'topic' => 'login']);
        $client->say(['wait' => 'uid']);
        $engine->consume(function (Message $message) {
            equal($message->topic, 'login');
            $message->keepAlive();
            $message->subscribe("user:{$message->data}");
            $message->setContext(['uid' => $message->data]);
            return 'stop';
        });
        equal($client->next(), '{"value":1001}');
        equal((new Publisher($engine->url(), BACKEND))->publish('user:1001', 'welcome')->reached, 1);
        $engine->allIsSettled();
    },
    'what a consumer fails at comes again' => function (Engine $engine) {
        $client = $engine->client();
        $client->ask(['push' => ['job' => 1]]);
        $tries = [];
        $engine->consume(function (Message $message) use (&$tries) {
            $tries[] = $message->data;
            if (count($tries) === 1) {
                throw new Exception('as it was meant to');
            }
            $message->send('done');
            return 'stop';
        });
        equal($client->next(), 'done');
        equal($tries, [['job' => 1], ['job' => 1]]);
        $engine->allIsSettled();
    },
    'messages come in their order' => function (Engine $engine) {
        $client = $engine->client();
        for ($n = 0; $n < 50; $n++) {
            $client->ask(['push' => $n]);
        }
        $seen = [];
        $engine->consume(function (Message $message) use (&$seen) {
            $seen[] = $message->data;
            return count($seen) === 50 ? 'stop' : null;
        });
        equal($seen, range(0, 49));
        $engine->allIsSettled();
    },
    'a consumer comes back when the engine does' => function (Engine $engine) {
        $engine->client()->ask(['push' => 1]);
        $seen = [];
        $engine->consume(function (Message $message) use (&$seen, $engine) {
            $seen[] = $message->data;
            if (count($seen) === 1) {
                $engine->kill();
                $engine->start();
                $engine->client()->ask(['push' => 2]);
            }
            return $message->data === 2 ? 'stop' : null;
        });
        equal($seen, [1, 2]);
    },
];

$failed = 0;
foreach ($tests as $name => $test) {
    $engine = new Engine();
    try {
        $test($engine);
        echo "ok      $name\n";
    } catch (Throwable $e) {
        $failed++;
        echo "FAILED  $name: $e\n";
    } finally {
        $engine->kill();
    }
}
echo count($tests) - $failed, " passed, $failed failed\n";
exit($failed === 0 ? 0 : 1);
