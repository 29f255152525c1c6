using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace OpenSora.Distributed;

/// <summary>Gives bytes of the first process to all others over TCP, before they can communicate in another way.</summary>
/// <remarks>A process sends <c>OpenSora</c>, its rank and the number of processes (32 bits each, little-endian); the first process answers with a
/// byte,
/// which is 1 if it expected the process, and the bytes.</remarks>
internal static class Rendezvous
{
    private static readonly byte[] Greeting = Encoding.ASCII.GetBytes("OpenSora");

    /// <summary>Exchanges the bytes.</summary>
    /// <param name="launched">The place of this process, and the address of the first.</param>
    /// <param name="bytes">The bytes in the first process; the others receive them in this array.</param>
    /// <param name="timeout">The time in which all processes must have arrived.</param>
    /// <param name="cancellationToken">Cancels the exchange.</param>
    /// <exception cref="CollectiveException">Not all processes arrived, or they contradict each other.</exception>
    public static async Task ShareAsync(LaunchEnvironment launched, byte[] bytes, TimeSpan timeout, CancellationToken cancellationToken)
    {
        if (launched.Size == 1)
        {
            return;
        }

        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(timeout);
        if (launched.Rank == 0)
        {
            await ServeAsync(launched, bytes, timeout, limit.Token, cancellationToken).ConfigureAwait(false);
        }
        else
        {
            await ReceiveAsync(launched, bytes, timeout, limit.Token, cancellationToken).ConfigureAwait(false);
        }
    }

    private static async Task ServeAsync(
        LaunchEnvironment launched,
        byte[] bytes,
        TimeSpan timeout,
        CancellationToken limit,
        CancellationToken cancellationToken
    )
    {
        using var listener = TcpListener.Create(launched.MasterPort);
        try
        {
            listener.Start();
        }
        catch (SocketException e)
        {
            throw new CollectiveException(
                $"The first process cannot listen on port {launched.MasterPort}: {e.Message}. Set MASTER_PORT to another one in all processes.",
                e
            );
        }

        var missing = Enumerable.Range(1, launched.Size - 1).ToHashSet();
        while (missing.Count > 0)
        {
            try
            {
                using var client = await listener.AcceptTcpClientAsync(limit).ConfigureAwait(false);
                if (await GreetAsync(client, limit).ConfigureAwait(false) is not var (rank, size))
                {
                    continue; // something else connected, such as a port scanner
                }

                var isExpected = size == launched.Size && missing.Remove(rank);
                await client.GetStream().WriteAsync((byte[])[isExpected ? (byte)1 : (byte)0, .. bytes], limit).ConfigureAwait(false);
                if (!isExpected)
                {
                    throw new CollectiveException(
                        $"A process with rank {rank} of {size} connected to the first of {launched.Size} processes, which "
                            + (size == launched.Size ? "already had one with this rank. " : "expected another number. ")
                            + "Two runs use the same MASTER_ADDR and MASTER_PORT, or the variables of a launcher are wrong."
                    );
                }
            }
            catch (Exception e) when (e is IOException or SocketException)
            {
                // The process that connected has ended; if it was one of the group, it is missing.
            }
            catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
            {
                throw new CollectiveException(
                    $"Of {launched.Size} processes, these did not connect to port {launched.MasterPort} of the first one within "
                        + $"{timeout.TotalSeconds:0.###} s: rank {string.Join(", ", missing.Order())}.",
                    e
                );
            }
        }
    }

    // The rank and the number of processes of a client; null if it is not a process of this library.
    private static async Task<(int Rank, int Size)?> GreetAsync(TcpClient client, CancellationToken limit)
    {
        using var soon = CancellationTokenSource.CreateLinkedTokenSource(limit);
        soon.CancelAfter(TimeSpan.FromSeconds(5));
        var message = new byte[Greeting.Length + 8];
        try
        {
            await client.GetStream().ReadExactlyAsync(message, soon.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is EndOfStreamException || e is OperationCanceledException && !limit.IsCancellationRequested)
        {
            return null;
        }

        return message.AsSpan(0, Greeting.Length).SequenceEqual(Greeting)
            ? (
                BinaryPrimitives.ReadInt32LittleEndian(message.AsSpan(Greeting.Length)),
                BinaryPrimitives.ReadInt32LittleEndian(message.AsSpan(Greeting.Length + 4))
            )
            : null;
    }

    private static async Task ReceiveAsync(
        LaunchEnvironment launched,
        byte[] bytes,
        TimeSpan timeout,
        CancellationToken limit,
        CancellationToken cancellationToken
    )
    {
        var message = new byte[Greeting.Length + 8];
        Greeting.CopyTo(message, 0);
        BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(Greeting.Length), launched.Rank);
        BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(Greeting.Length + 4), launched.Size);
        var answer = new byte[1 + bytes.Length];
        var address = $"{launched.MasterAddress}:{launched.MasterPort}";
        Exception? last = null;
        while (true)
        {
            try
            {
                using var client = new TcpClient();
                await client.ConnectAsync(launched.MasterAddress, launched.MasterPort, limit).ConfigureAwait(false);
                await client.GetStream().WriteAsync(message, limit).ConfigureAwait(false);
                await client.GetStream().ReadExactlyAsync(answer, limit).ConfigureAwait(false);
                break;
            }
            catch (Exception e) when (e is SocketException or IOException)
            {
                last = e; // The first process has not started yet, or its name is not known yet.
                await Task.Delay(TimeSpan.FromMilliseconds(100), CancellationToken.None).ConfigureAwait(false);
            }
            catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
            {
                throw new CollectiveException(
                    $"Rank {launched.Rank} of {launched.Size} could not reach the first process at {address} within {timeout.TotalSeconds:0.###} s"
                        + (last is null ? "" : $" ({last.Message})")
                        + ". Check that it runs, that MASTER_ADDR and MASTER_PORT are those of its machine, and that no firewall is in between.",
                    last ?? e
                );
            }
        }

        if (answer[0] == 0)
        {
            throw new CollectiveException(
                $"The first process at {address} does not expect rank {launched.Rank} of {launched.Size}: two runs use the same MASTER_ADDR and "
                    + "MASTER_PORT, or the variables of a launcher are wrong."
            );
        }

        answer.AsSpan(1).CopyTo(bytes);
    }
}
