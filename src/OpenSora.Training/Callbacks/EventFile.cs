using System.Buffers.Binary;
using System.Numerics;
using Google.Protobuf;

namespace OpenSora.Training.Callbacks;

/// <summary>An event file as TensorBoard reads it: TFRecords that hold tensorflow.Event messages (event.proto, summary.proto). Every record is handed
/// to
/// the system with one call, so that a process that dies leaves at worst a last record that is cut short, which readers pass over.</summary>
internal sealed class EventFile : IDisposable
{
    private static int files;

    private readonly FileStream _file;

    public EventFile(string folder)
    {
        Directory.CreateDirectory(folder);
        var name = FormattableString.Invariant(
            $"events.out.tfevents.{DateTimeOffset.UtcNow.ToUnixTimeSeconds():D10}.{Environment.MachineName}.{Environment.ProcessId}.{Interlocked.Increment(ref files)}"
        );
        _file = new FileStream(Path.Combine(folder, name), FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0);
        WriteEvent(0, output => WriteString(output, 3, "brain.Event:2")); // file_version
    }

    /// <summary>Says that what an earlier run wrote for later steps is void.</summary>
    public void WriteStart(long step) => WriteEvent(step, output => WriteMessage(output, 7, log => WriteVarint(log, 1, 1))); // session_log.status = START

    /// <summary>Writes numbers by their tags.</summary>
    public void WriteScalars(long step, IEnumerable<KeyValuePair<string, double>> scalars) =>
        WriteEvent(step, output => WriteMessage(output, 5, summary =>
            {
                foreach (var (tag, number) in scalars)
                {
                    WriteMessage(summary, 1, value =>
                    {
                        WriteString(value, 1, tag);
                        value.WriteTag(2, WireFormat.WireType.Fixed32);
                        value.WriteFloat((float)number);
                    });
                }
            }));

    /// <summary>Writes a picture; GIFs move.</summary>
    public void WriteImage(long step, string tag, int width, int height, byte[] encoded) =>
        WriteEvent(step, output => WriteMessage(output, 5, summary => WriteMessage(summary, 1, value =>
                {
                    WriteString(value, 1, tag);
                    WriteMessage(value, 4, image =>
                    {
                        WriteVarint(image, 1, height);
                        WriteVarint(image, 2, width);
                        WriteVarint(image, 3, 3); // RGB
                        image.WriteTag(4, WireFormat.WireType.LengthDelimited);
                        image.WriteBytes(ByteString.CopyFrom(encoded));
                    });
                })));

    public void Dispose() => _file.Dispose();

    private void WriteEvent(long step, Action<CodedOutputStream> what) =>
        WriteRecord(
            Message(output =>
            {
                output.WriteTag(1, WireFormat.WireType.Fixed64);
                output.WriteDouble((DateTimeOffset.UtcNow - DateTimeOffset.UnixEpoch).TotalSeconds);
                WriteVarint(output, 2, step);
                what(output);
            })
        );

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

    // CRC-32C, turned and shifted so that checksums of data that hold checksums stay good.
    private static uint MaskedCrc(ReadOnlySpan<byte> data)
    {
        var crc = uint.MaxValue;
        foreach (var value in data)
        {
            crc = BitOperations.Crc32C(crc, value);
        }

        return BitOperations.RotateRight(~crc, 15) + 0xa282ead8;
    }

    private static byte[] Message(Action<CodedOutputStream> write)
    {
        using var stream = new MemoryStream();
        using (var output = new CodedOutputStream(stream, leaveOpen: true))
        {
            write(output);
        }

        return stream.ToArray();
    }

    private static void WriteMessage(CodedOutputStream output, int field, Action<CodedOutputStream> write)
    {
        output.WriteTag(field, WireFormat.WireType.LengthDelimited);
        output.WriteBytes(ByteString.CopyFrom(Message(write)));
    }

    private static void WriteString(CodedOutputStream output, int field, string value)
    {
        output.WriteTag(field, WireFormat.WireType.LengthDelimited);
        output.WriteString(value);
    }

    private static void WriteVarint(CodedOutputStream output, int field, long value)
    {
        output.WriteTag(field, WireFormat.WireType.Varint);
        output.WriteInt64(value);
    }
}
