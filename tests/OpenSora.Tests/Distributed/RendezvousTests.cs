using System.Net;
using System.Net.Sockets;
using OpenSora.Distributed;

namespace OpenSora.Tests.Distributed;

/// <summary>Tests of the first contact between processes.</summary>
public class RendezvousTests
{
    private static readonly byte[] Id = [3, 1, 4];

    [Fact]
    public async Task All_processes_receive_the_bytes_of_the_first_in_whatever_order_they_start()
    {
        var port = FreePort();
        var others = new[] { 2, 1, 3 }.Select(rank => ShareAsync(rank, 4, port, new byte[3])).ToArray();
        using (var scanner = new TcpClient())
        {
            var first = ShareAsync(0, 4, port, Id);
            await scanner.ConnectAsync(IPAddress.Loopback, port, TestContext.Current.CancellationToken);
            await scanner.GetStream().WriteAsync("GET / HTTP/1.1\r\n\r\n"u8.ToArray(), TestContext.Current.CancellationToken);
            await first;
        }

        foreach (var other in others)
        {
            (await other).ShouldBe(Id);
        }
    }

    [Fact]
    public async Task Missing_processes_are_named()
    {
        var port = FreePort();
        var first = ShareAsync(0, 4, port, Id, seconds: 2);
        (await ShareAsync(2, 4, port, new byte[3])).ShouldBe(Id);
        var e = await Should.ThrowAsync<CollectiveException>(() => first);
        e.Message.ShouldBe($"Of 4 processes, these did not connect to port {port} of the first one within 2 s: rank 1, 3.");
        e = await Should.ThrowAsync<CollectiveException>(() => ShareAsync(1, 4, port, new byte[3], seconds: 0.5));
        e.Message.ShouldStartWith($"Rank 1 of 4 could not reach the first process at 127.0.0.1:{port} within 0.5 s (");
    }

    [Fact]
    public async Task Processes_of_another_run_are_refused()
    {
        var port = FreePort();
        var first = ShareAsync(0, 2, port, Id);
        (await Should.ThrowAsync<CollectiveException>(() => ShareAsync(1, 3, port, new byte[3]))).Message.ShouldContain(
            "does not expect rank 1 of 3"
        );
        (await Should.ThrowAsync<CollectiveException>(() => first)).Message.ShouldContain("expected another number");
    }

    [Fact]
    public async Task A_port_in_use_is_an_error()
    {
        using var listener = TcpListener.Create(0);
        listener.Start();
        var port = ((IPEndPoint)listener.LocalEndpoint).Port;
        (await Should.ThrowAsync<CollectiveException>(() => ShareAsync(0, 2, port, Id))).Message.ShouldContain($"cannot listen on port {port}");
    }

    [Fact]
    public async Task It_can_be_canceled()
    {
        using var cancellation = new CancellationTokenSource();
        var first = Rendezvous.ShareAsync(Place(0, 2, FreePort()), Id, TimeSpan.FromMinutes(1), cancellation.Token);
        await cancellation.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(() => first);
    }

    private static int FreePort()
    {
        using var listener = TcpListener.Create(0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    private static LaunchEnvironment Place(int rank, int size, int port) =>
        new()
        {
            Launcher = "torchrun",
            Rank = rank,
            Size = size,
            MasterPort = port,
        };

    private static async Task<byte[]> ShareAsync(int rank, int size, int port, byte[] bytes, double seconds = 30)
    {
        await Rendezvous.ShareAsync(Place(rank, size, port), bytes, TimeSpan.FromSeconds(seconds), TestContext.Current.CancellationToken);
        return bytes;
    }
}
