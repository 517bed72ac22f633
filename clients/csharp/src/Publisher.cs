using System.Text.Json;

namespace Connmix;

/// <summary>
/// Keeps one connection, and makes it again when it must. One for the whole program; any number of threads and tasks may publish.
/// It connects at the first call.
/// </summary>
/// <param name="address">an engine's API, such as http://127.0.0.1:6789</param>
/// <param name="who">who calls</param>
public sealed class Publisher(Uri address, Credentials? who = null) : IAsyncDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    private readonly SemaphoreSlim connecting = new(1);
    private readonly CancellationTokenSource disposed = new();
    private Link? link;
    private int failures;

    /// <summary>
    /// Publishes a text to a channel. One whose reply is lost with the connection is published again by its id: it is delivered once.
    /// </summary>
    /// <param name="channel">the channel</param>
    /// <param name="text">the text</param>
    /// <param name="id">by it the engine knows a publish that is asked for again; a random one unless given</param>
    /// <param name="exclude">ids of clients that do not get it</param>
    /// <param name="key">what it is about, for channels whose rule asks for it</param>
    /// <param name="priority">"high", "normal" or "low": how much it matters, likewise</param>
    /// <param name="timeout">for all attempts, 10 s unless given</param>
    /// <param name="cancel">ends the attempts</param>
    /// <exception cref="CallException">the engine refuses it</exception>
    /// <exception cref="RefusedException">the engine refuses this caller</exception>
    /// <exception cref="TimeoutException">it could not be reached for so long: the message may have been published or not</exception>
    public Task<Published> PublishAsync(
        string channel, string text, string? id = null, IReadOnlyCollection<string>? exclude = null, string? key = null,
        string? priority = null, TimeSpan? timeout = null, CancellationToken cancel = default) =>
        PublishAsync(
            new { c = channel, d = text, id = id ?? Guid.NewGuid().ToString(), x = Some(exclude), k = key, pr = priority }, timeout, cancel);

    /// <summary>The same with binary data.</summary>
    public Task<Published> PublishAsync(
        string channel, byte[] data, string? id = null, IReadOnlyCollection<string>? exclude = null, string? key = null,
        string? priority = null, TimeSpan? timeout = null, CancellationToken cancel = default) =>
        PublishAsync(
            new
            {
                c = channel,
                d = Convert.ToBase64String(data),
                t = "binary",
                id = id ?? Guid.NewGuid().ToString(),
                x = Some(exclude),
                k = key,
                pr = priority,
            },
            timeout, cancel);

    /// <summary>Sends a text to one client; whether it is there. Not repeated: after <see cref="ClosedException"/> it may have been sent.</summary>
    public async Task<bool> SendAsync(string client, string text, TimeSpan? timeout = null, CancellationToken cancel = default)
    {
        try
        {
            await CallAsync("mesh.send", new { c = client, d = text }, timeout, false, cancel).ConfigureAwait(false);
            return true;
        }
        catch (CallException e) when (e.Code == 401)
        {
            return false;
        }
    }

    /// <summary>Any method of the WebSocket API; its `r`. Not repeated.</summary>
    public Task<JsonElement> CallAsync(string method, object parameters, TimeSpan? timeout = null, CancellationToken cancel = default) =>
        CallAsync(method, parameters, timeout, false, cancel);

    /// <summary>Ends the connection.</summary>
    public async ValueTask DisposeAsync()
    {
        disposed.Cancel();
        if (link is { } last)
        {
            await last.CloseAsync().ConfigureAwait(false);
        }
    }

    private static IReadOnlyCollection<string>? Some(IReadOnlyCollection<string>? all) => all is { Count: > 0 } ? all : null;

    private async Task<Published> PublishAsync(object parameters, TimeSpan? timeout, CancellationToken cancel)
    {
        var r = await CallAsync("mesh.publish", parameters, timeout, true, cancel).ConfigureAwait(false);
        var unanswered = r.TryGetProperty("u", out var u) ? u.GetInt32() : 0;
        var position = r.TryGetProperty("p", out var p) ? p.GetString() : null;
        return new Published(
            r.GetProperty("s").GetInt32(), r.GetProperty("f").GetInt32(), unanswered, r.TryGetProperty("l", out _), position,
            r.TryGetProperty("m", out _));
    }

    private async Task<JsonElement> CallAsync(string method, object parameters, TimeSpan? timeout, bool again, CancellationToken cancel)
    {
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancel, disposed.Token);
        over.CancelAfter(timeout ?? Patience);
        var last = "";
        try
        {
            while (true)
            {
                Link current;
                try
                {
                    current = await ConnectedAsync(over.Token).ConfigureAwait(false);
                }
                catch (ClosedException e)
                {
                    last = "; " + e.Message;
                    continue; // the pause is in front of the next attempt
                }
                try
                {
                    return await current.Call(method, parameters).WaitAsync(over.Token).ConfigureAwait(false);
                }
                catch (ClosedException e) when (again)
                {
                    last = "; " + e.Message;
                }
            }
        }
        catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
        {
            ObjectDisposedException.ThrowIf(disposed.IsCancellationRequested, this);
            throw new TimeoutException($"{method}: no reply within {(timeout ?? Patience).TotalSeconds} s{last}");
        }
    }

    private async Task<Link> ConnectedAsync(CancellationToken cancel)
    {
        await connecting.WaitAsync(cancel).ConfigureAwait(false);
        try
        {
            if (link is { Ended.IsCompleted: false } there)
            {
                return there;
            }
            if (failures > 0)
            {
                await Task.Delay(Pause.After(failures, 0.1, 5), cancel).ConfigureAwait(false);
            }
            failures++;
            link = await Link.ConnectAsync(Link.Endpoint(address), who, null, cancel).ConfigureAwait(false);
            failures = 0;
            return link;
        }
        finally
        {
            connecting.Release();
        }
    }
}
