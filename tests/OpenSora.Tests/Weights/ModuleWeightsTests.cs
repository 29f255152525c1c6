using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

public sealed class ModuleWeightsTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_saved_module_is_loaded_again()
    {
        using var scope = NewDisposeScope();
        using var a = new Small();
        using var b = new Small();
        using (no_grad())
        {
            a.table.fill_(3);
        }

        a.SaveWeights(_folder["a.safetensors"]);
        var report = b.LoadWeights(_folder["a.safetensors"]);

        report.Loaded.ShouldBe(["linear.bias", "linear.weight", "table"], ignoreOrder: true);
        report.IsComplete.ShouldBeTrue();
        foreach (var (name, tensor) in a.state_dict())
        {
            b.state_dict()[name].eq(tensor).all().item<bool>().ShouldBeTrue(name);
        }

        b.linear.weight!.requires_grad.ShouldBeTrue();
        b.linear.weight!.is_leaf.ShouldBeTrue();
    }

    [Theory]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float64)]
    public void Floating_types_are_converted_both_ways(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var a = new Small();
        using var b = new Small();
        a.SaveWeights(_folder["a"], dtype);
        using (var file = SafetensorsFile.Open(_folder["a"]))
        {
            file.Tensors["linear.weight"].Dtype.ShouldBe(dtype);
        }

        b.LoadWeights(_folder["a"]).Loaded.Count.ShouldBe(3);
        b.linear.weight!.dtype.ShouldBe(ScalarType.Float32);
        (b.linear.weight! - a.linear.weight!).abs().max().item<float>().ShouldBeLessThan(0.01f);
        b.linear.weight!.eq(a.linear.weight!.to_type(dtype).to_type(ScalarType.Float32)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Missing_unexpected_and_mismatched_tensors_are_errors_and_change_nothing()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        var before = module.linear.bias!.clone();
        var path = Save(("linear.weight", zeros(3, 5)), ("linear.bias", zeros(3)), ("head.weight", zeros(1)));

        var exception = Should.Throw<InvalidWeightsException>(() => module.LoadWeights(path));
        exception.Message.ShouldContain(path);
        exception.Message.ShouldContain("the file has [3, 5], the model [3, 4]");
        exception.Message.ShouldContain("Missing: table");
        exception.Message.ShouldContain("Unexpected: head.weight");
        var report = exception.Report.ShouldNotBeNull();
        report.Loaded.ShouldBe(["linear.bias"]);
        report.Missing.ShouldBe(["table"]);
        report.Unexpected.ShouldBe(["head.weight"]);
        report.Mismatched.Count.ShouldBe(1);
        module.linear.bias!.eq(before).all().item<bool>().ShouldBeTrue();

        module.LoadWeights(path, new LoadOptions { Strict = false }).ToString().ShouldBe(report.ToString());
        module.linear.bias!.abs().sum().item<float>().ShouldBe(0);
    }

    [Theory]
    [InlineData(ScalarType.Int64, "I64")]
    [InlineData(ScalarType.Bool, "BOOL")]
    public void Types_that_are_no_numbers_of_that_kind_are_rejected(ScalarType dtype, string name)
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        var path = Save(("linear.weight", zeros([3, 4], dtype)), ("linear.bias", zeros(3)), ("table", zeros(2)));
        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(path)).Message.ShouldContain($"the file has the dtype {name}, the model F32");
    }

    [Fact]
    public void Keys_are_mapped_dropped_kept_and_reshaped_as_the_options_say()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        var options = new LoadOptions
        {
            KeyMap = name => name is "pos_embed" ? null : name.Replace("fc.", "linear.", StringComparison.Ordinal),
            KeepInitial = name => name is "table",
            AllowReshape = true,
        };
        var report = module.LoadWeights(Save(("fc.weight", ones(3, 1, 4)), ("fc.bias", zeros(3)), ("pos_embed", zeros(1))), options);
        report.Loaded.ShouldBe(["linear.bias"]);
        report.Reshaped.ShouldBe(["linear.weight: [3, 1, 4] to [3, 4]"]);
        report.Initialized.ShouldBe(["table"]);
        report.Dropped.ShouldBe(["pos_embed"]);
        module.linear.weight!.sum().item<float>().ShouldBe(12);

        var twice = Save(("fc.weight", ones(3, 4)), ("linear.weight", ones(3, 4)), ("fc.bias", zeros(3)));
        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(twice, options)).Message.ShouldContain("are mapped to this name");
    }

    [Fact]
    public void Loading_leaves_no_tensor()
    {
        using var outer = NewDisposeScope();
        using var module = new Small();
        module.SaveWeights(_folder["a"], ScalarType.Float16);
        var before = TensorCount.Now;
        module.LoadWeights(_folder["a"]);
        module.SaveWeights(_folder["b"], ScalarType.BFloat16);
        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(Save(("x", zeros(1)))));
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Parameters_become_mapped_and_stay_the_same_objects()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Maps are listed in /proc.");
        var path = _folder["large.safetensors"];
        using (NewDisposeScope())
        {
            using var large = nn.Linear(256, 256);
            large.SaveWeights(path);
        }

        var module = nn.Linear(256, 256);
        var (weight, handle) = (module.weight!, module.weight!.Handle);
        var count = TensorCount.Now;
        module.LoadWeights(path);
        TensorCount.ShouldBe(count);
        module.weight.ShouldBeSameAs(weight);
        weight.Handle.ShouldBe(handle);
        (weight.requires_grad, weight.is_leaf).ShouldBe((true, true));
        IsMapped().ShouldBeTrue();
        File.Delete(path);
        using (NewDisposeScope())
        {
            weight.sum().item<float>().ShouldBeInRange(-1000, 1000);
        }

        module.Dispose();
        _ = TensorCount.Settled; // TorchSharp leaves one handle of every new parameter to the finalizer
        IsMapped().ShouldBeFalse();

        bool IsMapped() => File.ReadLines("/proc/self/maps").Any(line => line.Contains(path, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(ScalarType.Bool)]
    [InlineData(ScalarType.Byte)]
    [InlineData(ScalarType.Int8)]
    [InlineData(ScalarType.Int16)]
    [InlineData(ScalarType.Int32)]
    [InlineData(ScalarType.Int64)]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    public void Large_tensors_of_every_type_are_mapped_and_do_not_change_the_file(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        var path = _folder["large.safetensors"];
        var expected = arange(0, 70_000, ScalarType.Float32).remainder(2).to_type(dtype);
        SafetensorsWriter.Write(path, new Dictionary<string, Tensor> { ["a"] = expected, ["b"] = expected.logical_not().to_type(dtype) });
        var bytes = File.ReadAllBytes(path);
        using var file = WeightsFile.Open(path);
        using (var maps = new TensorMaps())
        {
            maps.TryView(
                    new MappedFile(path, 8),
                    file.Tensors["a"].Offset,
                    70_000 * expected.element_size(),
                    [70_000],
                    dtype,
                    (int)expected.element_size()
                )
                .ShouldNotBeNull();
            var (a, b) = (file.Read("a", maps), file.Read("b", maps));
            a.eq(expected).all().item<bool>().ShouldBeTrue();
            b.ne(expected).all().item<bool>().ShouldBeTrue();
            a.zero_();
            b.ne(expected).all().item<bool>().ShouldBeTrue();
        }
        file.Read("a").eq(expected).all().item<bool>().ShouldBeTrue(); // another map: what was written shows nowhere else
        File.ReadAllBytes(path).ShouldBe(bytes);
    }

    [Fact]
    public void Unaligned_tensors_are_copied()
    {
        using var scope = NewDisposeScope();
        var path = _folder["unaligned.safetensors"];
        var values = arange(0, 70_000, ScalarType.Float32);
        var header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[70000],\"data_offsets\":[0,280000]}}  "u8; // 8 + 65 bytes: odd
        header.Length.ShouldBe(65);
        using (var stream = File.Create(path))
        {
            stream.Write(BitConverter.GetBytes((long)header.Length));
            stream.Write(header);
            values.WriteBytesToStream(stream);
        }
        using var file = WeightsFile.Open(path);
        (file.Tensors["a"].Offset % 4).ShouldNotBe(0);
        using var mapped = new MappedFile(path, 8);
        using var maps = new TensorMaps();
        maps.TryView(mapped, file.Tensors["a"].Offset, 280_000, [70_000], ScalarType.Float32, 4).ShouldBeNull();
        file.Read("a", maps).eq(values).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Training_changes_neither_the_file_nor_another_module_of_it()
    {
        using var scope = NewDisposeScope();
        using var a = new Small();
        using var b = new Small();
        a.SaveWeights(_folder["a"]);
        var bytes = File.ReadAllBytes(_folder["a"]);
        var optimizer = optim.AdamW(a.parameters(), lr: 0.1);
        using (var file = SafetensorsFile.Open(_folder["a"]))
        {
            a.LoadWeights(file);
            a.linear.call(ones(1, 4)).sum().backward();
            optimizer.step();
            b.LoadWeights(file);
            file.Read("linear.weight").eq(b.linear.weight!).all().item<bool>().ShouldBeTrue();
        }

        a.linear.weight!.ne(b.linear.weight!).all().item<bool>().ShouldBeTrue();
        File.ReadAllBytes(_folder["a"]).ShouldBe(bytes);
    }

    [Fact]
    public void Weights_are_saved_over_the_file_that_they_are_mapped_from()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        using var other = new Small();
        module.SaveWeights(_folder["a"]);
        other.SaveWeights(_folder["b"]);
        module.LoadWeights(_folder["a"]);
        using var old = SafetensorsFile.Open(_folder["a"]);
        using (no_grad())
        {
            module.linear.weight!.fill_(5);
        }

        var bias = module.linear.bias!.clone();
        module.SaveWeights(_folder["a"]);
        module.linear.bias!.eq(bias).all().item<bool>().ShouldBeTrue();
        module.LoadWeights(_folder["a"]);
        module.linear.weight!.eq(5).all().item<bool>().ShouldBeTrue();
        module.linear.bias!.eq(bias).all().item<bool>().ShouldBeTrue();
        old.Read("linear.weight").eq(5).any().item<bool>().ShouldBeFalse();

        other.SaveWeights(_folder["a"]); // another's weights take the file's name: what lies in the old file stays
        module.linear.weight!.eq(5).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Copied_weights_survive_a_file_that_is_overwritten_in_place()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        module.SaveWeights(_folder["a"]);
        var weight = module.linear.weight!.clone();
        module.LoadWeights(_folder["a"], new LoadOptions { Copy = true });
        using (var stream = File.Open(_folder["a"], FileMode.Open, FileAccess.Write))
        {
            stream.SetLength(0);
        }

        module.linear.weight!.eq(weight).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Damaged_booleans_are_detected_before_anything_changes()
    {
        using var scope = NewDisposeScope();
        using var module = new Flagged();
        module.SaveWeights(_folder["a"]);
        var bytes = File.ReadAllBytes(_folder["a"]);
        bytes[^1] = 7; // booleans, the narrowest type, come last
        File.WriteAllBytes(_folder["a"], bytes);
        using (no_grad())
        {
            module.weight.fill_(9);
        }

        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(_folder["a"])).Message.ShouldContain("boolean tensor 'flags'");
        module.weight.eq(9).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void A_file_that_is_truncated_while_it_is_open_is_rejected()
    {
        using var scope = NewDisposeScope();
        using var module = new Small();
        module.SaveWeights(_folder["a"]);
        using var file = SafetensorsFile.Open(_folder["a"]);
        using (var stream = File.Open(_folder["a"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            stream.SetLength(stream.Length - 4);
        }

        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(file)).Message.ShouldContain("truncated");
    }

    private string Save(params (string Name, Tensor Tensor)[] tensors)
    {
        SafetensorsWriter.Write(_folder["saved.safetensors"], tensors.Select(pair => KeyValuePair.Create(pair.Name, pair.Tensor)));
        foreach (var (_, tensor) in tensors)
        {
            tensor.Dispose();
        }

        return _folder["saved.safetensors"];
    }

    private sealed class Small : nn.Module
    {
#pragma warning disable IDE1006, MA0069 // names of the state dict
        public readonly TorchSharp.Modules.Linear linear = nn.Linear(4, 3);
        public readonly Tensor table = zeros(2);
        public readonly Tensor scratch = zeros(2);
#pragma warning restore

        public Small()
            : base(nameof(Small))
        {
            register_buffer("scratch", scratch, persistent: false);
            RegisterComponents();
        }
    }

    private sealed class Flagged : nn.Module
    {
#pragma warning disable IDE1006, MA0069 // names of the state dict
        public readonly Parameter weight = new(zeros(3));
        public readonly Tensor flags = zeros(3, ScalarType.Bool);
#pragma warning restore

        public Flagged()
            : base(nameof(Flagged)) => RegisterComponents();
    }
}
