using Google.Protobuf;

namespace OpenSora.Preparation.Tests.Scores;

/// <summary>Writes small ONNX models, field by field as onnx.proto numbers them.</summary>
internal static class Onnx
{
    internal const int Float = 1;
    internal const int Int64 = 7;

    /// <summary>Writes a model of one operation; a dimension of -1 can have any size.</summary>
    internal static string Write(
        string path,
        string operation,
        (string Name, int Type, int[] Shape) input,
        (string Name, int Type, int[] Shape) output,
        params byte[][] attributes
    )
    {
        var node = Message(o =>
        {
            Field(o, 1, input.Name);
            Field(o, 2, output.Name);
            Field(o, 4, operation);
            foreach (var attribute in attributes)
            {
                Field(o, 5, attribute);
            }
        });
        var graph = Message(o =>
        {
            Field(o, 1, node);
            Field(o, 2, "graph");
            Field(o, 11, Value(input));
            Field(o, 12, Value(output));
        });
        var model = Message(o =>
        {
            Field(o, 1, 7); // version of the format
            Field(o, 7, graph);
            Field(o, 8, Message(opset => Field(opset, 2, 13)));
        });
        File.WriteAllBytes(path, model);
        return path;
    }

    internal static byte[] Attribute(string name, long value) =>
        Message(o =>
        {
            Field(o, 1, name);
            Field(o, 3, value);
            Field(o, 20, 2);
        });

    internal static byte[] Attribute(string name, long[] values) =>
        Message(o =>
        {
            Field(o, 1, name);
            foreach (var value in values)
            {
                Field(o, 8, value);
            }

            Field(o, 20, 7);
        });

    private static byte[] Value((string Name, int Type, int[] Shape) value) =>
        Message(o =>
        {
            Field(o, 1, value.Name);
            var shape = Message(s =>
            {
                foreach (var size in value.Shape)
                {
                    Field(
                        s,
                        1,
                        Message(d =>
                        {
                            if (size < 0)
                            {
                                Field(d, 2, "any");
                            }
                            else
                            {
                                Field(d, 1, size);
                            }
                        })
                    );
                }
            });
            Field(
                o,
                2,
                Message(type =>
                    Field(
                        type,
                        1,
                        Message(tensor =>
                        {
                            Field(tensor, 1, value.Type);
                            Field(tensor, 2, shape);
                        })
                    )
                )
            );
        });

    private static byte[] Message(Action<CodedOutputStream> write)
    {
        using var memory = new MemoryStream();
        using (var output = new CodedOutputStream(memory, leaveOpen: true))
        {
            write(output);
        }

        return memory.ToArray();
    }

    private static void Field(CodedOutputStream output, int number, string text)
    {
        output.WriteTag(number, WireFormat.WireType.LengthDelimited);
        output.WriteString(text);
    }

    private static void Field(CodedOutputStream output, int number, byte[] message)
    {
        output.WriteTag(number, WireFormat.WireType.LengthDelimited);
        output.WriteBytes(ByteString.CopyFrom(message));
    }

    private static void Field(CodedOutputStream output, int number, long value)
    {
        output.WriteTag(number, WireFormat.WireType.Varint);
        output.WriteInt64(value);
    }
}
