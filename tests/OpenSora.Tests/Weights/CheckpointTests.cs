using System.Text;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>PyTorch checkpoints and shards. How the files were made is in tests/Data/checkpoints/README.md.</summary>
public sealed class CheckpointTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("f16", ScalarType.Float16)]
    [InlineData("bf16", ScalarType.BFloat16)]
    [InlineData("f32", ScalarType.Float32)]
    [InlineData("f64", ScalarType.Float64)]
    [InlineData("i64", ScalarType.Int64)]
    [InlineData("i32", ScalarType.Int32)]
    [InlineData("i16", ScalarType.Int16)]
    [InlineData("i8", ScalarType.Int8)]
    [InlineData("u8", ScalarType.Byte)]
    public void Every_element_type_is_read(string name, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        foreach (var mapped in new[] { true, false })
        {
            using var file = WeightsFile.Open(Checkpoint("types.pt"));
            using var maps = mapped ? new TensorMaps() : null;
            file.Format.ShouldBe("PyTorch checkpoint");
            file.Tensors.Count.ShouldBe(10);
            var tensor = file.Read(name, maps);
            tensor.dtype.ShouldBe(dtype);
            Values(tensor).ShouldBe([0, 1, 2, 3, 4, 5]);
            file.Read("bool", maps).data<bool>().ToArray().ShouldBe([true, false, true]);
        }
    }

    [Fact]
    public void Views_over_one_storage_have_the_values_of_the_original()
    {
        using var scope = NewDisposeScope();
        var original = arange(0, 24, ScalarType.Float32).view(4, 6);
        foreach (var mapped in new[] { true, false })
        {
            using var file = WeightsFile.Open(Checkpoint("views.pt"));
            using var maps = mapped ? new TensorMaps() : null;
            Expect("base", original);
            Expect("same", original);
            Expect("transposed", original.t());
            Expect("slice", original[TensorIndex.Slice(1, 3), TensorIndex.Slice(2, 5)]);
            Expect("steps", original[TensorIndex.Slice(step: 2), TensorIndex.Slice(step: 3)]);
            Expect("row", original[2]);
            Expect("expanded", arange(0, 3, ScalarType.Float32).view(3, 1).expand(3, 4));
            Expect("scalar", tensor(7f));
            Expect("nothing", zeros(0, 3));
            Expect("channels_last", arange(0, 12, ScalarType.Float32).view(1, 2, 2, 3));
            file.Tensors["base"].Strides.ShouldBeNull();
            file.Tensors["row"].Strides.ShouldBeNull();
            file.Tensors["row"].Offset.ShouldBe(file.Tensors["base"].Offset + 48);
            file.Tensors["transposed"].Strides.ShouldBe([1, 6]);
            file.Tensors["slice"].Length.ShouldBe(4 * (6 + 3));
            file.Tensors["channels_last"].Strides.ShouldNotBeNull();

            void Expect(string name, Tensor expected)
            {
                var actual = file.Read(name, maps);
                actual.shape.ShouldBe(expected.shape, name);
                Values(actual).ShouldBe(Values(expected), name);
            }
        }
    }

    [Fact]
    public void Parameters_that_shared_a_storage_do_not_share_memory_once_loaded()
    {
        using var scope = NewDisposeScope();
        using var module = new Two();
        module.LoadWeights(Checkpoint("views.pt"), new LoadOptions { KeyMap = name => name is "base" or "same" or "transposed" ? name : null });
        using (no_grad())
        {
            module.same.fill_(-1);
        }

        Values(module.@base).ShouldBe(Enumerable.Range(0, 24).Select(i => (double)i));
        Values(module.transposed[1]).ShouldBe([1, 7, 13, 19]);
        Values(module.same).ShouldAllBe(value => value == -1);
    }

    [Theory]
    [InlineData(null, "ema", 100)]
    [InlineData("ema", "ema", 100)]
    [InlineData("model", "model", 0)]
    public void Averages_are_preferred_unless_another_section_is_requested(string? asked, string chosen, int first)
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        var report = module.LoadWeights(Checkpoint("training.pt"), new LoadOptions { Section = asked });
        report.Unwrapped.ShouldBe([chosen]);
        report.ToString().ShouldContain($"Extracted from: {chosen}");
        report.IsComplete.ShouldBeTrue();
        Values(module.linear.weight!).ShouldBe(Enumerable.Range(first, 12).Select(i => (double)i));
        Values(module.table).ShouldBe([first + 15, first + 16]);
    }

    [Fact]
    public void Contents_other_than_tensors_are_listed()
    {
        using var file = WeightsFile.Open(Checkpoint("training.pt"));
        file.AllSections.ShouldBe([new("model", 3, false), new("ema", 3, true)]);
        file.Metadata.ShouldBe(
            new Dictionary<string, string>
            {
                ["epoch"] = "3",
                ["loss"] = "0.25",
                ["name"] = "tiny",
            },
            ignoreOrder: true
        );
        Problem(() => WeightsFile.Open(Checkpoint("training.pt"), "best")).ShouldContain("no section 'best'. It has: 'model', 'ema'");
        SafetensorsWriter.Write(_folder["a.safetensors"], []);
        Problem(() => WeightsFile.Open(_folder["a.safetensors"], "ema")).ShouldContain("not a PyTorch checkpoint");
    }

    [Theory]
    [InlineData("wrapped.ckpt", "state_dict, module.model.")]
    [InlineData("state_dict.pth", "")]
    [InlineData("parameters.pth", "")]
    [InlineData("pytorch_model.bin.index.json", "")]
    [InlineData("legacy name without meaning.txt", "")]
    public void Prefixes_are_removed_and_reported(string name, string unwrapped)
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        var path = Checkpoint(name);
        if (!File.Exists(path))
        {
            File.Copy(Checkpoint("state_dict.pth"), path = _folder[name]); // contents count, not names
        }

        var report = module.LoadWeights(path);
        string.Join(", ", report.Unwrapped).ShouldBe(unwrapped);
        report.Loaded.ShouldBe(["linear.bias", "linear.weight", "table"], ignoreOrder: true);
        Values(module.linear.weight!).ShouldBe(Enumerable.Range(0, 12).Select(i => (double)i));
        Values(module.linear.bias!).ShouldBe([12, 13, 14]);
        Values(module.table).ShouldBe([15, 16]);
    }

    [Fact]
    public void A_prefix_is_removed_from_safetensors_too_and_only_if_no_name_fits_with_it()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        using var wrapped = new Wrapped();
        wrapped.SaveWeights(_folder["wrapped.safetensors"]);
        module.LoadWeights(_folder["wrapped.safetensors"]).Unwrapped.ShouldBe(["module."]);
        wrapped.LoadWeights(_folder["wrapped.safetensors"]).Unwrapped.ShouldBeEmpty();
        var seen = new List<string>();
        module.LoadWeights(_folder["wrapped.safetensors"], new LoadOptions { KeyMap = name => name["module.".Length..] }).Unwrapped.ShouldBeEmpty();
    }

    [Fact]
    public void Objects_that_trainers_save_beside_tensors_are_skipped()
    {
        using var scope = NewDisposeScope();
        using var file = WeightsFile.Open(Checkpoint("trainer.ckpt"));
        file.AllSections.ShouldBe([new("state_dict", 2, true)]);
        file.Metadata.ShouldBe(new Dictionary<string, string> { ["epoch"] = "7" });
        Values(file.Read("first_stage_model.noted")).ShouldBe([0, 1]);
        Values(file.Read("first_stage_model.plain")).ShouldBe([0, 1, 2]);
    }

    [Fact]
    public void Tensors_of_newer_versions_are_read()
    {
        using var scope = NewDisposeScope();
        byte[] storage =
        [
            .. "("u8,
            .. Pickle.Text("storage"),
            .. "ctorch.storage\nUntypedStorage\n"u8,
            .. Pickle.Text("0"),
            .. Pickle.Text("cpu"),
            .. "K\x08tQ"u8,
        ];
        byte[] ofBytes =
        [
            .. "ctorch._utils\n_rebuild_tensor_v3\n("u8,
            .. storage,
            .. "K\x01K\x02"u8,
            0x85,
            .. "K\x01"u8,
            0x85,
            0x89,
            .. ")ctorch\nint16\ntR"u8,
        ];
        byte[] ofClass =
        [
            .. "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch.nn.parameter\nParameter\n"u8,
            .. Pickle.Tensor("1", 3)["ctorch._utils\n_rebuild_tensor_v2\n".Length..^1],
            .. "}tR"u8,
        ];
        var path = Zip(
            "new.pt",
            ("a/data.pkl", [0x80, 2, .. "}("u8, .. Pickle.Text("typed"), .. ofBytes, .. Pickle.Text("class"), .. ofClass, .. "u."u8]),
            ("a/data/0", [1, 0, 2, 0, 3, 0, 4, 0]),
            ("a/data/1", [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64]),
            ("a/byteorder", "little"u8.ToArray())
        );
        using var file = WeightsFile.Open(path);
        var typed = file.Read("typed");
        typed.dtype.ShouldBe(ScalarType.Int16);
        Values(typed).ShouldBe([2, 3]);
        Values(file.Read("class")).ShouldBe([1, 2, 3]);
    }

    [Fact]
    public void Archives_with_the_fields_of_large_ones_are_read()
    {
        using var scope = NewDisposeScope();
        (string, byte[])[] entries =
        [
            ("a/data.pkl", [0x80, 2, .. "}"u8, .. Pickle.Text("x"), .. Pickle.Tensor("0", 2), .. "s."u8]),
            ("a/data/0", [0, 0, 128, 63, 0, 0, 0, 64]),
        ];
        using var file = WeightsFile.Open(Write("wide.pt", StoredZip.Of(entries, wide: true)));
        Values(file.Read("x")).ShouldBe([1, 2]);
    }

    [Theory]
    [InlineData(5, 1, 0, "extends to byte 20 of a storage of 16 bytes")]
    [InlineData(3, 2, 0, "extends to byte 20 of a storage of 16 bytes")]
    [InlineData(4, 1, 1, "extends to byte 20 of a storage of 16 bytes")]
    [InlineData(4, -1, 0, "non-negative integers")]
    [InlineData(-1, 1, 0, "non-negative integers")]
    [InlineData(int.MaxValue, int.MaxValue, 0, "too large")]
    public void A_tensor_that_reaches_beyond_its_storage_is_rejected(int size, int stride, int offset, string problem)
    {
        static byte[] Int(int number) => [(byte)'J', .. BitConverter.GetBytes(number)];
        byte[] tensor =
        [
            .. "ctorch._utils\n_rebuild_tensor\n(("u8,
            .. Pickle.Text("storage"),
            .. "ctorch\nFloatStorage\n"u8,
            .. Pickle.Text("0"),
            .. Pickle.Text("cpu"),
            .. "K\x04tQ"u8,
            .. Int(offset),
            .. Int(size),
            0x85,
            .. Int(stride),
            0x85,
            .. "tR"u8,
        ];
        var path = Zip("beyond.pt", ("a/data.pkl", [0x80, 2, .. "}"u8, .. Pickle.Text("x"), .. tensor, .. "s."u8]), ("a/data/0", new byte[16]));
        Problem(() => WeightsFile.Open(path)).ShouldContain(problem);
    }

    [Fact]
    public void A_pickle_that_calls_anything_else_is_rejected_by_name_and_not_executed()
    {
        using var here = new TemporaryFolder();
        var before = Environment.CurrentDirectory;
        Environment.CurrentDirectory = here.Path;
        try
        {
            var problem = Problem(() => WeightsFile.Open(Checkpoint("command.pth")));
            problem.ShouldContain("'posix.system'");
            problem.ShouldContain("No code in the file was executed");
            problem.ShouldContain("torch.save(");
            here.Entries.ShouldBeEmpty();
        }
        finally
        {
            Environment.CurrentDirectory = before;
        }

        Problem(() => WeightsFile.Open(Checkpoint("whole_model.pth"))).ShouldContain("'torch.nn.modules.linear.Linear'");
    }

    [Fact]
    public void Old_and_other_formats_are_named_with_what_to_do()
    {
        Problem(() => WeightsFile.Open(Checkpoint("legacy.pth"))).ShouldMatch("before version 1.6.*torch.save\\(torch.load");
        Problem(() => WeightsFile.Open(Checkpoint("script.pt"))).ShouldContain("TorchScript");
        Problem(() => WeightsFile.Open(Write("bare.pkl", [0x80, 4, .. "}."u8, .. new byte[10]]))).ShouldContain("plain Python pickle");
        var tar = new byte[1024];
        "sys_info"u8.CopyTo(tar);
        "ustar"u8.CopyTo(tar.AsSpan(257));
        Problem(() => WeightsFile.Open(Write("old.tar", tar))).ShouldMatch("tar archive.*torch.save\\(torch.load");
        Problem(() => WeightsFile.Open(Zip("other.zip", ("readme.txt", "hello"u8.ToArray())))).ShouldContain("without data.pkl");
        Problem(() => WeightsFile.Open(Zip("arrays.npz", ("a.npy", [1])))).ShouldContain("NumPy");
        Problem(() => WeightsFile.Open(Zip("big.pt", ("a/data.pkl", [0x80, 2, .. "}."u8]), ("a/byteorder", "big"u8.ToArray()))))
            .ShouldContain("big-endian");
        Problem(() => WeightsFile.Open(Zip("empty.pt", ("a/data.pkl", [0x80, 2, .. "}."u8])))).ShouldContain("no dictionary of tensors");
        using (var compressed = new System.IO.Compression.ZipArchive(File.Create(_folder["packed.pt"]), System.IO.Compression.ZipArchiveMode.Create))
        using (var entry = compressed.CreateEntry("a/data.pkl").Open())
        {
            entry.Write(new byte[1000]);
        }

        Problem(() => WeightsFile.Open(_folder["packed.pt"])).ShouldContain("'a/data.pkl' is compressed");
        Problem(() => WeightsFile.Open(Write("cut.pt", File.ReadAllBytes(Checkpoint("types.pt"))[..2000]))).ShouldContain("truncated");
        Should.Throw<FileNotFoundException>(() => WeightsFile.Open(_folder["absent.pt"]));
        Should.Throw<FileNotFoundException>(() => WeightsFile.Open(_folder["absent.index.json"]));
    }

    [Fact]
    public void Safetensors_shards_are_read_as_one_file()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        SafetensorsWriter.Write(
            _folder["model-1.safetensors"],
            [KeyValuePair.Create("linear.weight", ones(3, 4)), KeyValuePair.Create("table", zeros(2))]
        );
        SafetensorsWriter.Write(_folder["model-2.safetensors"], [KeyValuePair.Create("linear.bias", ones(3)), KeyValuePair.Create("table", ones(2))]);
        var index = Index(
            """
            {"metadata": {"total_size": 68},
             "weight_map": {"linear.weight": "model-1.safetensors", "linear.bias": "model-2.safetensors", "table": "model-2.safetensors"}}
            """
        );
        using (var file = WeightsFile.Open(index))
        {
            file.Format.ShouldBe("2 shards, safetensors");
            file.Metadata["total_size"].ShouldBe("68");
            file.Tensors.Count.ShouldBe(3);
            file.Tensors["table"].Shard.ShouldBe("model-2.safetensors");
        }

        module.LoadWeights(_folder.Path).Loaded.Count.ShouldBe(3); // the folder's index
        Values(module.table).ShouldBe([1, 1]);

        Problem("""{"weight_map": {"linear.weight": "model-1.safetensors", "linear.bias": "model-2.safetensors"}}""").ShouldContain("in two shards");
        Problem("""{"weight_map": {"linear.weight": "model-2.safetensors", "table": "model-2.safetensors"}}""")
            .ShouldContain("belong to a different index");
        Problem("""{"weight_map": {"linear.weight": "model-3.safetensors"}}""").ShouldContain("does not exist");
        Problem("""{"weight_map": {"linear.weight": "../model-1.safetensors"}}""").ShouldContain("in the same folder");
        Problem("""{"weight_map": {"linear.weight": "model.safetensors.index.json"}}""").ShouldContain("in the same folder");
        Problem("""{"weight_map": {}}""").ShouldContain("no tensors");
        Problem("""{"architectures": []}""").ShouldContain("without a weight_map");
        Problem("""{"weight_map": """).ShouldContain("not valid JSON");
        Problem("""{"weight_map": {"\ud800": "a"}}""").ShouldContain("not valid JSON");

        string Problem(string json)
        {
            Index(json);
            return CheckpointTests.Problem(() => WeightsFile.Open(index));
        }

        string Index(string json)
        {
            File.WriteAllText(_folder["model.safetensors.index.json"], json);
            return _folder["model.safetensors.index.json"];
        }
    }

    [Fact]
    public void A_folder_without_weights_or_with_several_is_reported()
    {
        Problem(() => WeightsFile.Open(_folder.Path)).ShouldContain("contains no weights");
        File.Copy(Checkpoint("types.pt"), _folder["a.pt"]);
        File.Copy(Checkpoint("types.pt"), _folder["b.pt"]);
        Problem(() => WeightsFile.Open(_folder.Path)).ShouldContain("specify one of them: a.pt, b.pt");
    }

    [Fact]
    public void Reading_leaves_no_tensor()
    {
        var before = TensorCount.Start();
        foreach (var mapped in new[] { true, false })
        {
            using var scope = NewDisposeScope();
            using var file = WeightsFile.Open(Checkpoint("views.pt"));
            using var maps = mapped ? new TensorMaps() : null;
            foreach (var name in file.Tensors.Keys)
            {
                file.Read(name, maps);
            }
        }

        before.More.ShouldBe(0);
    }

    internal static string Checkpoint(string name) => TestFiles.Data("checkpoints", name);

    internal static string Problem(Func<WeightsFile> open) => Should.Throw<InvalidWeightsException>(() => open().Dispose()).Message;

    private static double[] Values(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.detach().to_type(ScalarType.Float64).contiguous().flatten().data<double>().ToArray();
    }

    private string Write(string name, byte[] bytes)
    {
        File.WriteAllBytes(_folder[name], bytes);
        return _folder[name];
    }

    private string Zip(string name, params (string Name, byte[] Bytes)[] entries) => Write(name, StoredZip.Of(entries));

#pragma warning disable IDE1006, MA0069 // names of the state dict
    private sealed class Small : nn.Module
    {
        public readonly TorchSharp.Modules.Linear linear = nn.Linear(4, 3);
        public readonly Tensor table = zeros(2);

        public Small()
            : base(nameof(Small)) => RegisterComponents();
    }

    private sealed class Wrapped : nn.Module
    {
        public readonly Small module = new();

        public Wrapped()
            : base(nameof(Wrapped)) => RegisterComponents();
    }

    private sealed class Two : nn.Module
    {
        public readonly Parameter @base = new(zeros(4, 6));
        public readonly Parameter same = new(zeros(4, 6));
        public readonly Parameter transposed = new(zeros(6, 4));

        public Two()
            : base(nameof(Two)) => RegisterComponents();
    }
#pragma warning restore
}
