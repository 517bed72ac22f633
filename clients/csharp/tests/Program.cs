// Against a real engine:  CONNMIX=target/release/connmix dotnet run --project clients/csharp/tests

using System.Diagnostics;
using System.Net.Sockets;
using System.Net.WebSockets;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using Connmix;

var tests = new (string Name, Func<Engine, Task> Run)[]
{
    ("a message reaches its channel as it is", Tests.Publishes),
    ("errors say what is wrong", Tests.TellsErrors),
    ("a publisher comes back when the engine does", Tests.ComesBack),
    ("a consumer logs a client in", Tests.LogsIn),
    ("what a consumer fails at comes again", Tests.ComesAgain),
};
var failed = 0;
foreach (var (name, run) in tests)
{
    using var engine = new Engine();
    try
    {
        await engine.StartAsync();
        await run(engine).WaitAsync(TimeSpan.FromSeconds(120));
        Console.WriteLine($"ok      {name}");
    }
    catch (Exception e)
    {
        failed++;
        Console.WriteLine($"FAILED  {name}: {e}");
    }
}
Console.WriteLine($"{tests.Length - failed} passed, {failed} failed");
return failed == 0 ? 0 : 1;

static class Tests
{
    private static readonly Credentials Backend = Credentials.Basic("backend", "change-me");

    public static async Task Publishes(Engine engine)
    {
        await using var publisher = new Publisher(engine.Url, Backend);
        var client = await engine.ClientAsync("news");
        foreach (var data in new[] { "Hello", "{\"quoted\":\"\\\"back\\\\slash\\\"\ttab\"}", "视频 😀 é", new string('x', 70000) })
        {
            Equal(await publisher.PublishAsync("news", data), new Published(1, 0, 0));
            Equal(await client.NextAsync(), data);
        }
        await publisher.PublishAsync("news", "\0\u0001"u8.ToArray());
        Equal(await client.NextAsync(), "\0\u0001");
        Equal((await publisher.PublishAsync("news", "not you", exclude: [client.Id])).Reached, 0);
        var first = await publisher.PublishAsync("limited:1", "a", key: "a", priority: "normal");
        Equal((first.Position is not null, first.LeftOut), (true, false));
        var second = await publisher.PublishAsync("limited:1", "b");
        Equal((second.LeftOut, second.Merged), (true, false));
        var alike = second;
        for (var n = 0; n < 3; n++) alike = await publisher.PublishAsync("merged:1", "a", key: "a");
        Equal(alike.Merged, true);
        Equal(await publisher.SendAsync(client.Id, "only you"), true);
        Equal(await client.NextAsync(), "only you");
        Equal(await publisher.SendAsync("7", "nobody"), false);
        Equal((await publisher.CallAsync("mesh.count", new { c = "news" })).GetProperty("n").GetInt32(), 1);
        var many = Enumerable.Range(0, 500).Select(n => publisher.PublishAsync("news", $"{n}"));
        Equal((await Task.WhenAll(many)).Sum(published => published.Reached), 500);
    }

    public static async Task TellsErrors(Engine engine)
    {
        await using var publisher = new Publisher(engine.Url, Credentials.Token("a-long-random-token"));
        Equal((await Throws<CallException>(() => publisher.PublishAsync("two words", "Hello"))).Code, 101);
        await using var stranger = new Publisher(engine.Url, Credentials.Basic("backend", "wrong"));
        Equal((await Throws<RefusedException>(() => stranger.PublishAsync("news", "Hello"))).Status, 401);
        await using var lost = new Publisher(new Uri("ftp://127.0.0.1"), Backend);
        await Throws<ArgumentException>(() => lost.PublishAsync("news", "Hello"));
    }

    public static async Task ComesBack(Engine engine)
    {
        await using var publisher = new Publisher(engine.Url, Backend);
        await publisher.PublishAsync("news", "before");
        engine.Kill();
        await Throws<TimeoutException>(() => publisher.PublishAsync("news", "lost", timeout: TimeSpan.FromSeconds(0.3)));
        var waiting = publisher.PublishAsync("news", "Hello", timeout: TimeSpan.FromSeconds(60));
        await engine.StartAsync();
        Equal((await waiting).Reached, 0);
        var client = await engine.ClientAsync("news");
        await publisher.PublishAsync("news", "after");
        Equal(await client.NextAsync(), "after");
    }

    public static async Task LogsIn(Engine engine)
    {
        using var stop = new CancellationTokenSource();
        var consumer = new Consumer(engine.Url, ["jobs", "login"], Login, Backend) { Log = _ => { } };
        var running = consumer.RunAsync(stop.Token);
        var client = await engine.ClientAsync();
        await client.AskAsync(new { push = 1001, topic = "login" });
        Equal((await client.AskAsync(new { wait = "uid" })).GetProperty("value").GetInt32(), 1001);
        await using var publisher = new Publisher(engine.Url, Backend);
        Equal((await publisher.PublishAsync("user:1001", "welcome")).Reached, 1);
        stop.Cancel();
        await running;

        static Task Login(Message message, CancellationToken cancel)
        {
            message.Subscribe($"user:{message.Data}");
            message.SetContext(new Dictionary<string, object?> { ["uid"] = message.Data.GetInt32() });
            return Task.CompletedTask;
        }
    }

    public static async Task ComesAgain(Engine engine)
    {
        using var stop = new CancellationTokenSource();
        var tries = 0;
        Task Handle(Message message, CancellationToken cancel)
        {
            if (Interlocked.Increment(ref tries) == 1)
            {
                throw new ArgumentException("as it was meant to");
            }
            message.Send($"done {message.Data}");
            return Task.CompletedTask;
        }
        var running = new Consumer(engine.Url, ["jobs"], Handle, Backend) { Log = _ => { } }.RunAsync(stop.Token);
        var client = await engine.ClientAsync();
        await client.AskAsync(new { push = 7 });
        Equal(await client.NextAsync(), "done 7");
        stop.Cancel();
        await running;
        Equal(tries, 2);
    }

    private static void Equal<T>(T got, T want, [CallerLineNumber] int line = 0)
    {
        if (!EqualityComparer<T>.Default.Equals(got, want))
        {
            throw new Exception($"line {line}: got {got}, wanted {want}");
        }
    }

    private static async Task<T> Throws<T>(Func<Task> work) where T : Exception
    {
        try
        {
            await work();
        }
        catch (T e)
        {
            return e;
        }
        throw new Exception($"no {typeof(T).Name}");
    }
}

/// <summary>Runs from start to kill, and may be started again at the same ports.</summary>
sealed class Engine : IDisposable
{
    private readonly int port = FreePort();
    private readonly int apiPort = FreePort();
    private Process? process;

    public Uri Url => new($"http://127.0.0.1:{apiPort}");

    public async Task StartAsync([CallerFilePath] string here = "")
    {
        var files = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "../../testing"));
        var start = new ProcessStartInfo(Environment.GetEnvironmentVariable("CONNMIX") ?? "connmix") { WorkingDirectory = files };
        foreach (var argument in new[] { "single", "-f", Path.Combine(files, "connmix.yaml") })
        {
            start.ArgumentList.Add(argument);
        }
        start.Environment["PORT"] = $"{port}";
        start.Environment["API_PORT"] = $"{apiPort}";
        process = Process.Start(start)!;
        for (var end = DateTime.UtcNow.AddSeconds(30); DateTime.UtcNow < end; await Task.Delay(10))
        {
            try
            {
                using var socket = new TcpClient();
                await socket.ConnectAsync("127.0.0.1", apiPort);
                return;
            }
            catch (SocketException) when (!process.HasExited)
            {
                // Not yet.
            }
        }
        throw new Exception("the engine does not start");
    }

    public void Kill()
    {
        process?.Kill();
        process?.WaitForExit();
        process = null;
    }

    public void Dispose() => Kill();

    public async Task<Client> ClientAsync(string? channel = null)
    {
        var socket = new ClientWebSocket();
        await socket.ConnectAsync(new Uri($"ws://127.0.0.1:{port}/ws"), default);
        var client = new Client(socket);
        if (channel is not null)
        {
            client.Id = (await client.AskAsync(new { subscribe = channel })).GetProperty("client").GetString()!;
        }
        return client;
    }

    /// <summary>Below those that the system gives to sockets by itself.</summary>
    private static int FreePort()
    {
        while (true)
        {
            var port = Random.Shared.Next(10240, 31000);
            try
            {
                var listener = new TcpListener(System.Net.IPAddress.Loopback, port);
                listener.Start();
                listener.Stop();
                return port;
            }
            catch (SocketException)
            {
                // Somebody has it.
            }
        }
    }
}

/// <summary>What a browser would be.</summary>
sealed class Client(ClientWebSocket socket)
{
    public string Id { get; set; } = "";

    public async Task<string> NextAsync()
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        using var message = new MemoryStream();
        var buffer = new byte[4096];
        while (true)
        {
            var part = await socket.ReceiveAsync(buffer.AsMemory(), patience.Token);
            message.Write(buffer, 0, part.Count);
            if (part.EndOfMessage)
            {
                return Encoding.UTF8.GetString(message.ToArray());
            }
        }
    }

    public async Task<JsonElement> AskAsync(object what)
    {
        await socket.SendAsync(JsonSerializer.SerializeToUtf8Bytes(what), WebSocketMessageType.Text, true, default);
        return JsonDocument.Parse(await NextAsync()).RootElement;
    }
}
