using System.Net.WebSockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Threading.Channels;

namespace Connmix;

/// <summary>
/// One connection to an engine's WebSocket API (/ws/v1): calls and their replies, events, and whether it still lives. Calls are sent in the
/// order in which they are made, and take effect in it.
/// </summary>
internal sealed class Link
{
    /// <summary>A connection is asked with a ping when it has been silent for so long, and given up when it says nothing for as long again.</summary>
    private static readonly TimeSpan Silence = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan ConnectTimeout = TimeSpan.FromSeconds(5);
    private const int MaxMessage = 64 << 20;

    private static readonly JsonSerializerOptions Json = new() { DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull };

    private readonly ClientWebSocket socket = new();
    private readonly Channel<string> outgoing = Channel.CreateUnbounded<string>(new() { SingleReader = true });
    private readonly Dictionary<long, TaskCompletionSource<JsonElement>> calls = new();
    private readonly TaskCompletionSource<Exception> ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource over = new();
    private readonly object gate = new();
    private readonly Action<JsonElement>? onEvent;
    private long number;
    private bool heard;
    private Exception? error;

    private Link(Action<JsonElement>? onEvent) => this.onEvent = onEvent;

    /// <summary>What ended the connection, when it has ended.</summary>
    public Task<Exception> Ended => ended.Task;

    /// <summary>Where the WebSocket API of an engine is whose API has that address.</summary>
    /// <exception cref="ArgumentException">it is neither HTTP nor WebSocket</exception>
    public static Uri Endpoint(Uri address)
    {
        var builder = new UriBuilder(address) { Path = address.AbsolutePath.TrimEnd('/') + "/ws/v1" };
        builder.Scheme = builder.Scheme switch
        {
            "http" or "ws" => "ws",
            "https" or "wss" => "wss",
            var other => throw new ArgumentException($"no http, https, ws or wss: {other}"),
        };
        return builder.Uri;
    }

    /// <summary>Connects to an <see cref="Endpoint"/>.</summary>
    public static async Task<Link> ConnectAsync(Uri endpoint, Credentials? who, Action<JsonElement>? onEvent, CancellationToken cancel)
    {
        var link = new Link(onEvent);
        link.socket.Options.CollectHttpResponseDetails = true;
        if (who is not null)
        {
            link.socket.Options.SetRequestHeader("Authorization", who.Header);
        }
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        patience.CancelAfter(ConnectTimeout);
        try
        {
            await link.socket.ConnectAsync(endpoint, patience.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is WebSocketException or OperationCanceledException && !cancel.IsCancellationRequested)
        {
            var status = (int)link.socket.HttpStatusCode;
            link.socket.Dispose();
            // From 500 on it is one of the moment: the engine stops, or a proxy finds none.
            throw status is >= 400 and < 500
                ? (Exception)new RefusedException(status)
                : new ClosedException(1006, e is WebSocketException ? e.Message : "no connection in time");
        }
        _ = link.ReceiveAsync();
        _ = link.SendAsync();
        _ = link.WatchAsync();
        return link;
    }

    /// <summary>Makes a call. The task gets `r` of its reply, a <see cref="CallException"/>, or what ended the connection.</summary>
    public Task<JsonElement> Call(string method, object parameters)
    {
        var reply = new TaskCompletionSource<JsonElement>(TaskCreationOptions.RunContinuationsAsynchronously);
        // Nobody has to look at it.
        _ = reply.Task.ContinueWith(task => _ = task.Exception, TaskContinuationOptions.OnlyOnFaulted);
        lock (gate)
        {
            if (error is not null)
            {
                reply.SetException(error);
                return reply.Task;
            }
            var text = JsonSerializer.Serialize(new { m = method, p = parameters, i = ++number }, Json);
            calls.Add(number, reply);
            outgoing.Writer.TryWrite(text);
        }
        return reply.Task;
    }

    /// <summary>Ends it; calls without a reply fail.</summary>
    public async Task CloseAsync()
    {
        try
        {
            using var patience = new CancellationTokenSource(ConnectTimeout);
            await socket.CloseOutputAsync(WebSocketCloseStatus.NormalClosure, null, patience.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is WebSocketException or OperationCanceledException or ObjectDisposedException or InvalidOperationException)
        {
            // It has ended already.
        }
        End(new ClosedException(1000, "by this side"));
    }

    private async Task ReceiveAsync()
    {
        var buffer = new byte[16 * 1024];
        using var message = new MemoryStream();
        try
        {
            while (true)
            {
                var part = await socket.ReceiveAsync(buffer.AsMemory(), over.Token).ConfigureAwait(false);
                if (part.MessageType == WebSocketMessageType.Close)
                {
                    throw new ClosedException((int)(socket.CloseStatus ?? WebSocketCloseStatus.Empty), socket.CloseStatusDescription ?? "");
                }
                message.Write(buffer, 0, part.Count);
                if (message.Length > MaxMessage)
                {
                    throw new ClosedException(1009, "a message too large");
                }
                if (part.EndOfMessage)
                {
                    Volatile.Write(ref heard, true);
                    Take(Encoding.UTF8.GetString(message.GetBuffer(), 0, (int)message.Length));
                    message.SetLength(0);
                }
            }
        }
        catch (Exception e)
        {
            End(e is ClosedException ? e : new ClosedException(1006, e.Message));
        }
    }

    private void Take(string text)
    {
        if (text == "pong")
        {
            return;
        }
        using var document = JsonDocument.Parse(text);
        var message = document.RootElement;
        if (message.TryGetProperty("e", out _))
        {
            onEvent?.Invoke(message.GetProperty("p").Clone());
            return;
        }
        TaskCompletionSource<JsonElement>? reply = null;
        if (message.TryGetProperty("i", out var i) && i.TryGetInt64(out var which))
        {
            lock (gate)
            {
                calls.Remove(which, out reply);
            }
        }
        if (reply is null)
        {
            return;
        }
        if (message.GetProperty("E") is { ValueKind: JsonValueKind.Object } no)
        {
            reply.SetException(new CallException(no.GetProperty("c").GetInt32(), no.GetProperty("m").GetString() ?? ""));
        }
        else
        {
            reply.SetResult(message.GetProperty("r").Clone());
        }
    }

    private async Task SendAsync()
    {
        try
        {
            await foreach (var text in outgoing.Reader.ReadAllAsync(over.Token).ConfigureAwait(false))
            {
                await socket.SendAsync(Encoding.UTF8.GetBytes(text), WebSocketMessageType.Text, true, over.Token).ConfigureAwait(false);
            }
        }
        catch (Exception e)
        {
            End(new ClosedException(1006, e.Message));
        }
    }

    private async Task WatchAsync()
    {
        try
        {
            for (var asked = false; true;)
            {
                Volatile.Write(ref heard, false);
                await Task.Delay(Silence, over.Token).ConfigureAwait(false);
                if (Volatile.Read(ref heard))
                {
                    asked = false;
                }
                else if (asked)
                {
                    End(new ClosedException(1006, "silence"));
                    return;
                }
                else
                {
                    asked = true;
                    outgoing.Writer.TryWrite("ping");
                }
            }
        }
        catch (OperationCanceledException)
        {
            // The connection has ended.
        }
    }

    private void End(Exception why)
    {
        List<TaskCompletionSource<JsonElement>> waiting;
        lock (gate)
        {
            if (error is not null)
            {
                return;
            }
            error = why;
            waiting = [.. calls.Values];
            calls.Clear();
        }
        outgoing.Writer.TryComplete();
        over.Cancel();
        socket.Abort();
        foreach (var reply in waiting)
        {
            reply.TrySetException(why);
        }
        ended.TrySetResult(why);
    }
}
