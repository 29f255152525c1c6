using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace OpenSora.Studio.Tests;

/// <summary>A redis-server on a free port with a temporary folder, which is killed and deleted at the end.</summary>
internal sealed class RedisServer : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("redis-").FullName;
    private readonly int _port = FreePort();
    private readonly bool _isPersistent;
    private Process? _process;

    private RedisServer(bool isPersistent) => _isPersistent = isPersistent;

    public string Address => $"127.0.0.1:{_port},connectTimeout=1000,asyncTimeout=2000";

    /// <summary>Starts a server.</summary>
    /// <param name="isPersistent">Indicates whether every change is on the disk before it is acknowledged, so that the server can be stopped and
    /// started again.</param>
    public static async Task<RedisServer> StartAsync(bool isPersistent = false)
    {
        var server = new RedisServer(isPersistent);
        await server.StartAgainAsync();
        return server;
    }

    public async Task StartAgainAsync()
    {
        var start = new ProcessStartInfo("redis-server") { UseShellExecute = false, RedirectStandardOutput = true };
        foreach (
            var argument in new[] { "--port", $"{_port}", "--bind", "127.0.0.1", "--dir", _folder, "--save", "" }.Concat(
                _isPersistent ? ["--appendonly", "yes", "--appendfsync", "always"] : []
            )
        )
        {
            start.ArgumentList.Add(argument);
        }

        _process = Process.Start(start)!;
        while (await _process.StandardOutput.ReadLineAsync() is { } line)
        {
            if (line.Contains("Ready to accept connections", StringComparison.Ordinal))
            {
                _ = _process.StandardOutput.BaseStream.CopyToAsync(Stream.Null);
                return;
            }
        }

        throw new InvalidOperationException($"redis-server ended with exit code {_process.ExitCode}.");
    }

    /// <summary>Ends the server with SIGKILL.</summary>
    public void Kill()
    {
        _process!.Kill();
        _process.WaitForExit();
    }

    public void Dispose()
    {
        Kill();
        _process!.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
