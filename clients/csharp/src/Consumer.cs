using System.Text.Json;
using System.Threading.Channels;

namespace Connmix;

/// <summary>
/// What a handler of the engine pushed. What is done to its client happens in its order, before the message is settled; nothing waits.
/// </summary>
public sealed class Message
{
    private readonly Link link;
    private readonly Action<string> log;

    internal Message(JsonElement p, Link link, Action<string> log)
    {
        (this.link, this.log) = (link, log);
        Topic = p.GetProperty("t").GetString()!;
        Data = p.GetProperty("d");
        Client = p.GetProperty("c").GetString()!;
        Node = p.GetProperty("n").GetString()!;
        Key = p.GetProperty("k").GetInt64();
    }

    /// <summary>The topic that it was in.</summary>
    public string Topic { get; }

    /// <summary>What the handler pushed.</summary>
    public JsonElement Data { get; }

    /// <summary>The id of the client whose handler it was.</summary>
    public string Client { get; }

    /// <summary>The node that the client is connected to.</summary>
    public string Node { get; }

    internal long Key { get; }

    /// <summary>Has the client's connection do something, as `conn.call` of the API. One that fails, since it has left perhaps, is logged.</summary>
    public void Call(string function, params object[] arguments) =>
        Later("conn.call", new { c = Client, f = function, a = arguments });

    /// <summary>Subscribes the client to channels.</summary>
    public void Subscribe(params string[] channels) => Call("subscribe", [.. channels]);

    /// <summary>Takes the client out of channels.</summary>
    public void Unsubscribe(params string[] channels) => Call("unsubscribe", [.. channels]);

    /// <summary>Sets values of the client's context: a handler in `conn:wait_context_value` goes on.</summary>
    public void SetContext(IReadOnlyDictionary<string, object?> values) => Call("set_context", values);

    /// <summary>Closes the client's connection.</summary>
    public void Close(int code = 1000, string reason = "") => Call("close", code, reason);

    /// <summary>Sends a text to the client.</summary>
    public void Send(string text) => Later("mesh.send", new { c = Client, d = text });

    internal void Later(string method, object parameters) =>
        link.Call(method, parameters).ContinueWith(
            reply => log($"connmix: a call failed: {reply.Exception!.InnerException!.Message}"),
            CancellationToken.None,
            TaskContinuationOptions.OnlyOnFaulted,
            TaskScheduler.Default);
}

/// <summary>
/// Takes the messages of topics from one engine. A message is settled when the handler's task has ended. If it fails, that is logged, and the
/// message comes again, to this consumer or another, after a pause that grows with each failure in a row. So may one whose connection
/// breaks: what it leads to must bear that it comes twice.
/// </summary>
public sealed class Consumer(
    Uri address, IReadOnlyCollection<string> topics, Func<Message, CancellationToken, Task> handler, Credentials? who = null)
{
    private int failures;

    /// <summary>Messages that are worked on at the same time; with 1 they are in their order.</summary>
    public int Concurrency { get; init; } = 1;

    /// <summary>Gets a line for what goes wrong.</summary>
    public Action<string> Log { get; init; } = Console.Error.WriteLine;

    /// <summary>Consumes until it is cancelled, and then lets what is being worked on end. A connection that breaks is made again.</summary>
    /// <exception cref="ArgumentException">the address is none of an engine</exception>
    public async Task RunAsync(CancellationToken cancel)
    {
        // Told at once. What a handler throws is another thing, of whatever kind.
        var endpoint = Link.Endpoint(address);
        while (!cancel.IsCancellationRequested)
        {
            try
            {
                await ConnectionAsync(endpoint, cancel).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (cancel.IsCancellationRequested)
            {
                return;
            }
            catch (Exception e)
            {
                Log($"connmix: no connection: {e.Message}");
            }
            try
            {
                await Task.Delay(Pause.After(Interlocked.Increment(ref failures), 0.5, 30), cancel).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private async Task ConnectionAsync(Uri endpoint, CancellationToken cancel)
    {
        // The engine gives no more than 1,024 that are not settled.
        var messages = System.Threading.Channels.Channel.CreateUnbounded<JsonElement>();
        var link = await Link.ConnectAsync(endpoint, who, p => messages.Writer.TryWrite(p), cancel).ConfigureAwait(false);
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        _ = link.Ended.ContinueWith(_ => messages.Writer.TryComplete(), TaskScheduler.Default);
        try
        {
            await link.Call("queue.pop", new { t = topics, ack = true }).WaitAsync(cancel).ConfigureAwait(false);
            var workers = Enumerable.Range(0, Concurrency).Select(_ => WorkAsync(link, messages.Reader, over, cancel)).ToArray();
            await Task.WhenAll(workers).ConfigureAwait(false);
            if (link.Ended.IsCompleted)
            {
                throw await link.Ended.ConfigureAwait(false);
            }
            // Its reply comes behind those of all calls before, so that nothing is on its way when the connection ends.
            await link.Call("queue.unpop", new { }).WaitAsync(TimeSpan.FromSeconds(5), CancellationToken.None).ConfigureAwait(false);
        }
        finally
        {
            await link.CloseAsync().ConfigureAwait(false);
        }
    }

    private async Task WorkAsync(Link link, ChannelReader<JsonElement> messages, CancellationTokenSource over, CancellationToken cancel)
    {
        while (!over.IsCancellationRequested)
        {
            JsonElement p;
            try
            {
                p = await messages.ReadAsync(over.Token).ConfigureAwait(false);
            }
            catch (Exception e) when (e is ChannelClosedException or OperationCanceledException)
            {
                return;
            }
            var message = new Message(p, link, Log);
            try
            {
                await handler(message, cancel).ConfigureAwait(false);
            }
            catch (Exception e)
            {
                Log($"connmix: a message of {message.Topic} was not worked off, and comes again: {e}");
                over.Cancel();
                throw;
            }
            message.Later("queue.ack", new[] { message.Key });
            Interlocked.Exchange(ref failures, 0);
        }
    }
}
