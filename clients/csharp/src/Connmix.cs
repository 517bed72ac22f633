using System.Text;

namespace Connmix;

/// <summary>The engine's own no: the code is that of the server API's tables, such as 101 for a wrong argument.</summary>
public sealed class CallException(int code, string message) : Exception($"{code}: {message}")
{
    /// <summary>The code of the error.</summary>
    public int Code { get; } = code;
}

/// <summary>The engine's no to this caller: the HTTP status that its handshake was answered with.</summary>
public sealed class RefusedException(int status) : Exception($"refused with HTTP {status}")
{
    /// <summary>The HTTP status.</summary>
    public int Status { get; } = status;
}

/// <summary>The connection has ended, or could not be made; the code is that of its close frame, 1006 where there was none.</summary>
public sealed class ClosedException(int code, string reason) : IOException($"closed with {code} {reason}".TrimEnd())
{
    /// <summary>The code of the close frame.</summary>
    public int Code { get; } = code;
}

/// <summary>
/// Whom a message reached: connections that took it, that could not, and nodes of a cluster that did not answer in time. `LeftOut`: it was over
/// the limit of its channel's rule. `Position`: its place in a channel that keeps messages. `Merged`: over the limit, it was added to
/// others with the same key, and is not lost.
/// </summary>
public sealed record Published(int Reached, int Failed, int Unanswered, bool LeftOut = false, string? Position = null, bool Merged = false);

/// <summary>Who calls. Without anything: nobody in particular, for an engine without users.</summary>
public sealed record Credentials
{
    private Credentials(string header) => Header = header;

    /// <summary>Of HTTP Basic.</summary>
    public static Credentials Basic(string user, string password) =>
        new("Basic " + Convert.ToBase64String(Encoding.UTF8.GetBytes($"{user}:{password}")));

    /// <summary>A bearer token.</summary>
    public static Credentials Token(string token) => new("Bearer " + token);

    internal string Header { get; }

    /// <summary>Says nothing of the secret.</summary>
    public override string ToString() => nameof(Credentials);
}

internal static class Pause
{
    /// <summary>How long to wait after so many failures in a row: longer each time, and by chance, so that not all come back together.</summary>
    public static TimeSpan After(int failures, double first, double longest) =>
        TimeSpan.FromSeconds(Math.Min(first * Math.Pow(2, Math.Min(failures - 1, 16)), longest) * (0.5 + Random.Shared.NextDouble() / 2));
}
