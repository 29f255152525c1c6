using System.Buffers.Binary;
using System.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

public sealed class SafetensorsTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static TheoryData<ScalarType> Types =>
        [
            ScalarType.Bool,
            ScalarType.Byte,
            ScalarType.Int8,
            ScalarType.Int16,
            ScalarType.Int32,
            ScalarType.Int64,
            ScalarType.Float16,
            ScalarType.BFloat16,
            ScalarType.Float32,
            ScalarType.Float64,
        ];

    [Theory]
    [MemberData(nameof(Types))]
    public void Written_values_are_read(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        var matrix = (arange(0, 6) - 2).to_type(dtype).view(2, 3);
        var path = _folder["a.safetensors"];
        SafetensorsWriter.Write(
            path,
            new Dictionary<string, Tensor>
            {
                ["matrix"] = matrix,
                ["transposed"] = matrix.t(),
                ["scalar"] = matrix[1, 2],
                ["nothing"] = empty([3, 0, 2], dtype),
                ["a \"name\"\n with ü 🐐"] = matrix[1],
            },
            new Dictionary<string, string> { ["format"] = "pt", ["ключ"] = "значение" }
        );

        foreach (var mapped in new[] { true, false })
        {
            using var file = SafetensorsFile.Open(path);
            using var maps = mapped ? new TensorMaps() : null;
            file.Metadata["ключ"].ShouldBe("значение");
            file.Tensors.Count.ShouldBe(5);
            ShouldEqual(file.Read("matrix", maps), matrix);
            ShouldEqual(file.Read("transposed", maps), matrix.t());
            ShouldEqual(file.Read("scalar", maps), matrix[1, 2]);
            ShouldEqual(file.Read("a \"name\"\n with ü 🐐", maps), matrix[1]);
            file.Read("nothing", maps).shape.ShouldBe([3, 0, 2]);
            file.Read("nothing", maps).dtype.ShouldBe(dtype);
        }
    }

    [Fact]
    public void Equal_contents_are_equal_bytes_and_every_tensor_is_aligned()
    {
        using var scope = NewDisposeScope();
        var (a, b) = (ones(3, ScalarType.Byte), ones(3, ScalarType.Float64));
        SafetensorsWriter.Write(_folder["1"], new Dictionary<string, Tensor> { ["a"] = a, ["b"] = b });
        SafetensorsWriter.Write(_folder["2"], new Dictionary<string, Tensor> { ["b"] = b, ["a"] = a });

        File.ReadAllBytes(_folder["1"]).ShouldBe(File.ReadAllBytes(_folder["2"]));
        using var file = SafetensorsFile.Open(_folder["1"]);
        (file.Tensors["b"].Offset % 8).ShouldBe(0);
    }

    [Fact]
    public void A_file_in_the_layout_of_other_writers_is_read_even_if_unaligned()
    {
        using var scope = NewDisposeScope();
        var path = WriteRaw("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", [0, 0, 128, 63, 0, 0, 0, 64]);
        using var file = SafetensorsFile.Open(path);
        (file.Tensors["x"].Offset % 4).ShouldNotBe(0);
        file.Read("x").data<float>().ToArray().ShouldBe([1f, 2f]);
    }

    [Theory]
    [InlineData(384)] // 80 01, as an old pickle begins
    [InlineData(640)] // 80 02
    [InlineData(1408)] // 80 05
    public void A_header_whose_length_begins_like_a_pickle_is_a_header(int length)
    {
        var header = """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""".PadRight(length);
        File.WriteAllBytes(_folder["a"], [.. BitConverter.GetBytes((ulong)length), .. System.Text.Encoding.ASCII.GetBytes(header), 5, 6]);
        using var file = WeightsFile.Open(_folder["a"]);
        file.Format.ShouldBe("safetensors");
        file.Tensors.Keys.ShouldBe(["a"]);
    }

    [Fact]
    public void Tensors_outlive_the_file_object_and_the_file()
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(_folder["a"], new Dictionary<string, Tensor> { ["x"] = arange(0, 100_000, ScalarType.Float32) });
        Tensor x,
            view;
        using (var file = SafetensorsFile.Open(_folder["a"]))
        {
            x = file.Read("x");
            view = x[TensorIndex.Slice(10, 20)];
        }

        File.Delete(_folder["a"]);
        x.sum().item<float>().ShouldBe(4999950000f, 1e3);
        x.Dispose();
        view[0].item<float>().ShouldBe(10);
    }

    [Fact]
    public void Writing_into_a_tensor_does_not_change_the_file()
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(_folder["a"], new Dictionary<string, Tensor> { ["x"] = zeros(4) });
        var before = File.ReadAllBytes(_folder["a"]);
        using (var file = SafetensorsFile.Open(_folder["a"]))
        {
            file.Read("x").fill_(1).sum().item<float>().ShouldBe(4);
        }

        File.ReadAllBytes(_folder["a"]).ShouldBe(before);
    }

    [Fact]
    public void A_closed_file_and_an_unknown_name_are_rejected()
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(_folder["a"], new Dictionary<string, Tensor> { ["x"] = zeros(4) });
        var file = SafetensorsFile.Open(_folder["a"]);
        Should.Throw<KeyNotFoundException>(() => file.Read("y")).Message.ShouldContain("'y'");
        file.Dispose();
        file.Dispose();
        Should.Throw<ObjectDisposedException>(() => file.Read("x"));
    }

    [Theory]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8, null)]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   """, 8, null)]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 7, "truncated")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 9, "end at byte")]
    [InlineData("""{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}""", 8, "needs 12 bytes")]
    [InlineData("""{"x":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}}""", 8, "needs 4 bytes")]
    [InlineData("""{"x":{"dtype":"F 31","shape":[2],"data_offsets":[0,8]}}""", 8, "is not a name: 'F 31'")]
    [InlineData("""{"x":{"dtype":"","shape":[2],"data_offsets":[0,8]}}""", 8, "is not a name")]
    [InlineData("""{"x":{"dtype":"F31","shape":[4294967296,4294967296],"data_offsets":[0,8]}}""", 8, "too large")]
    [InlineData("""{"x":{"dtype":"F31","shape":[2],"data_offsets":[0,9]}}""", 8, "declares bytes 0 to 9")]
    [InlineData("""{"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}""", 8, "non-negative integers")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}""", 8, "non-negative integers")]
    [InlineData("""{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}""", 8, "too large")]
    [InlineData("""{"x":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}}""", 0, "too large")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}""", 8, "declares bytes 8 to 0")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", 8, "declares bytes 4 to 12")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", 12, "gap of 4 bytes")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", 12, "overlaps")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}""", 16, "twice")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0]}}""", 8, "two data_offsets")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2]}}""", 8, "two data_offsets")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":1}}""", 8, "'extra'")]
    [InlineData("""{"x":{"dtype":7,"shape":[2],"data_offsets":[0,8]}}""", 8, "must be a string")]
    [InlineData("""{"x":[1]}""", 8, "JSON object")]
    [InlineData("""{"__metadata__":{"a":1}}""", 0, "must be a string")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}""", 8, "not valid")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}{}""", 8, "not valid")]
    [InlineData("""[]""", 0, "one JSON object")]
    [InlineData("", 0, "not valid")]
    [InlineData("not json", 0, "not valid")]
    public void Headers_are_checked(string header, int dataLength, string? problem)
    {
        using var scope = NewDisposeScope();
        var path = WriteRaw(header, new byte[dataLength]);
        if (problem is null)
        {
            using var file = SafetensorsFile.Open(path);
            file.Read("x").shape.ShouldBe([2]);
        }
        else
        {
            var exception = Should.Throw<InvalidWeightsException>(() => SafetensorsFile.Open(path));
            exception.Path.ShouldBe(path);
            exception.Message.ShouldContain(problem);
        }
    }

    [Theory]
    [InlineData(9)]
    [InlineData(1 << 30)]
    [InlineData(long.MaxValue)]
    [InlineData(-1L)]
    public void A_header_length_beyond_the_file_is_rejected(long claimed)
    {
        var bytes = new byte[16];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, claimed);
        File.WriteAllBytes(_folder["a"], bytes);
        Should.Throw<InvalidWeightsException>(() => SafetensorsFile.Open(_folder["a"])).Message.ShouldContain("declares a header");
    }

    [Fact]
    public void Other_kinds_of_files_are_named()
    {
        Problem(_folder.Path).ShouldContain("folder");
        Problem(Write("empty", [])).ShouldContain("0 bytes");
        Problem(Write("zip", [(byte)'P', (byte)'K', 3, 4, .. new byte[100]])).ShouldContain("PyTorch checkpoint");
        Problem(Write("pickle", [0x80, 2, .. new byte[100]])).ShouldContain("PyTorch checkpoint");
        Problem(Write("html", Encoding.UTF8.GetBytes("<!DOCTYPE html><html></html>"))).ShouldContain("HTML");
        Problem(Write("lfs", Encoding.UTF8.GetBytes("version 1 of a pointer to a large file"))).ShouldContain("git lfs pull");
        Problem(Write("json", Encoding.UTF8.GetBytes("{\"architectures\": []}"))).ShouldContain("JSON");
        Should.Throw<FileNotFoundException>(() => SafetensorsFile.Open(_folder["absent"])).Message.ShouldContain("absent");

        static string Problem(string path) => Should.Throw<InvalidWeightsException>(() => SafetensorsFile.Open(path)).Message;
    }

    [Fact]
    public void Types_without_tensors_and_impossible_booleans_are_rejected_when_read()
    {
        var path = WriteRaw(
            """
            {"b":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]},"x":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[2,4]},
            "y":{"dtype":"F4","shape":[4],"data_offsets":[4,6]},"z":{"dtype":"NEW_7","shape":[3],"data_offsets":[6,7]}}
            """,
            [1, 2, 3, 4, 5, 6, 7]
        );
        using var file = SafetensorsFile.Open(path);
        file.Tensors["y"].Type.ShouldBe("F4");
        file.Tensors["y"].Length.ShouldBe(2);
        file.Tensors["z"].Dtype.ShouldBeNull();
        Should.Throw<InvalidWeightsException>(() => file.Read("x")).Message.ShouldContain("the dtype F8_E8M0, which is not supported");
        Should.Throw<InvalidWeightsException>(() => file.Read("y")).Message.ShouldContain("the dtype F4, which is not supported");
        Should.Throw<InvalidWeightsException>(() => file.Read("z")).Message.ShouldContain("the dtype NEW_7, which is not supported");
        Should.Throw<InvalidWeightsException>(() => file.Read("b")).Message.ShouldContain("boolean");
    }

    [Fact]
    public void Five_hundred_damaged_files_are_rejected_or_read_and_leave_no_tensor()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            SafetensorsWriter.Write(
                _folder["a"],
                new Dictionary<string, Tensor>
                {
                    ["one"] = arange(0, 12, ScalarType.Float32).view(3, 4),
                    ["two"] = arange(0, 5, ScalarType.Int64),
                    ["three"] = ones([2, 2], ScalarType.Bool),
                },
                new Dictionary<string, string> { ["format"] = "pt" }
            );
        }

        var original = File.ReadAllBytes(_folder["a"]);
        var random = new Random(20240311);
        var (refused, read) = (0, 0);
        for (var i = 0; i < 500; i++)
        {
            var bytes = original.ToArray();
            for (var changes = random.Next(1, 4); changes > 0; changes--)
            {
                var at = random.Next(random.Next(2) == 0 ? 8 : 260) % bytes.Length;
                bytes[at] = random.Next(3) switch
                {
                    0 => (byte)random.Next(256),
                    1 => (byte)"0129{}[]\":,"[random.Next(11)],
                    _ => (byte)(bytes[at] ^ (1 << random.Next(8))),
                };
            }

            if (random.Next(4) == 0)
            {
                Array.Resize(ref bytes, random.Next(bytes.Length + 20));
            }

            File.WriteAllBytes(_folder["b"], bytes);
            try
            {
                using var scope = NewDisposeScope();
                using var file = SafetensorsFile.Open(_folder["b"]);
                foreach (var name in file.Tensors.Keys)
                {
                    file.Read(name).to_type(ScalarType.Float64).sum().item<double>();
                }

                read++;
            }
            catch (InvalidWeightsException)
            {
                refused++;
            }
        }

        (read + refused).ShouldBe(500);
        refused.ShouldBeGreaterThan(300);
        read.ShouldBeGreaterThan(10);
        TensorCount.ShouldBe(before);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4)]
    [InlineData(100)]
    [InlineData(4096)]
    public void A_full_disk_leaves_the_old_file_and_nothing_else(int capacity)
    {
        using var scope = NewDisposeScope();
        var tensors = new Dictionary<string, Tensor> { ["x"] = ones(10_000) };
        foreach (var old in new[] { false, true })
        {
            var path = _folder[$"target{old}"];
            if (old)
            {
                File.WriteAllText(path, "old");
            }

            var exception = Should.Throw<IOException>(() =>
                SafetensorsWriter.Write(path, tensors, null, temporary => new FullStream(temporary, capacity))
            );
            exception.Message.ShouldContain(path);
            exception.Message.ShouldContain("No space left");
            File.Exists(path).ShouldBe(old);
            if (old)
            {
                File.ReadAllText(path).ShouldBe("old");
            }
        }

        Directory.GetFiles(_folder.Path).Length.ShouldBe(1);
    }

    [Fact]
    public void A_disk_that_is_full_only_when_flushed_is_noticed()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "This system has no /dev/full.");
        using var scope = NewDisposeScope();
        Should
            .Throw<IOException>(() =>
                SafetensorsWriter.Write(_folder["a"], [KeyValuePair.Create("x", ones(3))], null, _ => new FileStream(
                    "/dev/full",
                    FileMode.Open,
                    FileAccess.Write
                ))
            )
            .Message.ShouldContain("Could not write");
        Directory.GetFiles(_folder.Path).ShouldBeEmpty();
    }

    [Fact]
    public void Duplicate_names_and_types_without_a_name_are_rejected_before_anything_is_written()
    {
        using var scope = NewDisposeScope();
        var x = zeros(1);
        Should
            .Throw<ArgumentException>(() =>
                SafetensorsWriter.Write(_folder["a"], [KeyValuePair.Create("x", x), KeyValuePair.Create("x", x.to_type(ScalarType.Int64))])
            )
            .Message.ShouldContain("'x'");
        Should.Throw<ArgumentException>(() => SafetensorsWriter.Write(_folder["a"], [KeyValuePair.Create("__metadata__", x)]));
        Should
            .Throw<ArgumentException>(() => SafetensorsWriter.Write(_folder["a"], [KeyValuePair.Create("x", x.to_type(ScalarType.ComplexFloat32))]))
            .Message.ShouldContain("ComplexFloat32");
        Directory.GetFiles(_folder.Path).ShouldBeEmpty();
    }

    private static void ShouldEqual(Tensor actual, Tensor expected)
    {
        actual.dtype.ShouldBe(expected.dtype);
        actual.shape.ShouldBe(expected.shape);
        actual.eq(expected).all().item<bool>().ShouldBeTrue();
    }

    private string WriteRaw(string header, byte[] data)
    {
        var json = Encoding.UTF8.GetBytes(header);
        var bytes = new byte[8 + json.Length + data.Length];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, json.Length);
        json.CopyTo(bytes, 8);
        data.CopyTo(bytes, 8 + json.Length);
        return Write("raw.safetensors", bytes);
    }

    private string Write(string name, byte[] bytes)
    {
        File.WriteAllBytes(_folder[name], bytes);
        return _folder[name];
    }

    /// <summary>A stream to a disk that becomes full.</summary>
    private sealed class FullStream(string path, int capacity) : Stream
    {
        private readonly FileStream _file = new(path, FileMode.CreateNew);

        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => _file.Length;

        public override long Position
        {
            get => _file.Position;
            set => throw new NotSupportedException();
        }

        public override void Write(byte[] buffer, int offset, int count)
        {
            if (_file.Position + count > capacity)
            {
                throw new IOException("No space left on device.");
            }

            _file.Write(buffer, offset, count);
        }

        public override void Flush() => _file.Flush();

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            _file.Dispose();
            base.Dispose(disposing);
        }
    }
}
