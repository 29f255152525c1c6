using System.Buffers.Binary;
using System.Numerics;
using Google.Protobuf;
using Tensorboard;

namespace OpenSora.Training.Callbacks;

/// <summary>Writes an event file for TensorBoard: TFRecords with the messages of event.proto and summary.proto.</summary>
/// <remarks>Every record is handed to the operating system with one call, so that a process that dies leaves at worst a truncated last record, which
/// readers skip. TorchSharp's SummaryWriter buffers records and does not offer session logs.</remarks>
internal sealed class EventFile : IDisposable
{
    private static int files;

    private readonly FileStream _file;

    public EventFile(string folder)
    {
        Directory.CreateDirectory(folder);
        var (seconds, number) = (DateTimeOffset.UtcNow.ToUnixTimeSeconds(), Interlocked.Increment(ref files));
        var name = FormattableString.Invariant($"events.out.tfevents.{seconds:D10}.{Environment.MachineName}.{Environment.ProcessId}.{number}");
        _file = new FileStream(Path.Combine(folder, name), FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0);
        Write(0, new Event { FileVersion = "brain.Event:2" });
    }

    /// <summary>Declares what an earlier run wrote for later steps void.</summary>
    public void WriteStart(long step) => Write(step, new Event { SessionLog = new SessionLog { Status = SessionLog.Types.SessionStatus.Start } });

    /// <summary>Writes numbers by their tags.</summary>
    public void WriteScalars(long step, IEnumerable<KeyValuePair<string, double>> scalars)
    {
        var summary = new Summary();
        summary.Value.AddRange(scalars.Select(scalar => new Summary.Types.Value { Tag = scalar.Key, SimpleValue = (float)scalar.Value }));
        Write(step, new Event { Summary = summary });
    }

    /// <summary>Writes an encoded image; GIFs are shown moving.</summary>
    public void WriteImage(long step, string tag, int width, int height, byte[] encoded)
    {
        const int Rgb = 3;
        var image = new Summary.Types.Image
        {
            Width = width,
            Height = height,
            Colorspace = Rgb,
            EncodedImageString = ByteString.CopyFrom(encoded),
        };
        var summary = new Summary();
        summary.Value.Add(new Summary.Types.Value { Tag = tag, Image = image });
        Write(step, new Event { Summary = summary });
    }

    public void Dispose() => _file.Dispose();

    private void Write(long step, Event message)
    {
        message.WallTime = (DateTimeOffset.UtcNow - DateTimeOffset.UnixEpoch).TotalSeconds;
        message.Step = step;
        WriteRecord(message.ToByteArray());
    }

    // Length, its checksum, data, their checksum.
    private void WriteRecord(byte[] data)
    {
        var record = new byte[12 + data.Length + 4];
        BinaryPrimitives.WriteInt64LittleEndian(record, data.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(8), MaskedCrc(record.AsSpan(0, 8)));
        data.CopyTo(record, 12);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(12 + data.Length), MaskedCrc(data));
        _file.Write(record);
    }

    // CRC-32C, rotated and shifted so that checksums of data that contain checksums stay good.
    private static uint MaskedCrc(ReadOnlySpan<byte> data)
    {
        var crc = uint.MaxValue;
        foreach (var value in data)
        {
            crc = BitOperations.Crc32C(crc, value);
        }

        return BitOperations.RotateRight(~crc, 15) + 0xa282ead8;
    }
}
