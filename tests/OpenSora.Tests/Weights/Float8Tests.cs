using System.Text;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>8-bit floating-point weights.</summary>
public sealed class Float8Tests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("F8_E4M3", 4, 7)]
    [InlineData("F8_E5M2", 5, 15)]
    public void All_256_codes_have_the_values_of_their_definition(string type, int exponentBits, int bias)
    {
        using var scope = NewDisposeScope();
        byte[] codes = [.. Enumerable.Range(0, 256).Select(code => (byte)code)];
        using var file = WeightsFile.Open(Safetensors(type, "256", codes));
        file.Tensors["x"].Type.ShouldBe(type);
        file.Tensors["x"].Dtype.ShouldBe(ScalarType.Float32);
        var read = file.Read("x");
        read.dtype.ShouldBe(ScalarType.Float32);
        var values = read.data<float>().ToArray();
        for (var code = 0; code < 256; code++)
        {
            var expected = Value(code, exponentBits, bias);
            values[code].ShouldBe((float)expected, $"code {code:x2}");
            (double.IsNaN(expected) || float.IsNegative(values[code]) == code >= 128).ShouldBeTrue($"sign of code {code:x2}");
        }

        // Landmarks of the two types, from the tables in the paper.
        if (type is "F8_E4M3")
        {
            values[0x7e].ShouldBe(448);
            values[0x08].ShouldBe(MathF.Pow(2, -6));
            values[0x01].ShouldBe(MathF.Pow(2, -9));
            values[0x7f].ShouldBe(float.NaN);
            values.Count(float.IsNaN).ShouldBe(2);
            values.Count(float.IsInfinity).ShouldBe(0);
        }
        else
        {
            values[0x7b].ShouldBe(57344);
            values[0x04].ShouldBe(MathF.Pow(2, -14));
            values[0x01].ShouldBe(MathF.Pow(2, -16));
            values[0x7c].ShouldBe(float.PositiveInfinity);
            values[0xfc].ShouldBe(float.NegativeInfinity);
            values.Count(float.IsNaN).ShouldBe(6);
        }

        // The value of a code by the definition of the format, in exact decimal steps.
        static double Value(int code, int exponentBits, int bias)
        {
            var fractionBits = 7 - exponentBits;
            var (magnitude, steps) = (code & 0x7f, 1 << fractionBits);
            var (exponent, fraction) = (magnitude / steps, magnitude % steps);
            var isTop = exponent == (1 << exponentBits) - 1;
            double value =
                fractionBits == 3 && magnitude == 0x7f ? double.NaN
                : fractionBits == 2 && isTop ? (fraction == 0 ? double.PositiveInfinity : double.NaN)
                : exponent == 0 ? fraction * Math.Pow(2, 1 - bias - fractionBits)
                : Math.Pow(2, exponent - bias) + (fraction * Math.Pow(2, exponent - bias - fractionBits));
            return code >= 128 ? -value : value;
        }
    }

    [Fact]
    public void A_model_is_loaded_from_8_bit_weights_in_its_own_type()
    {
        using var scope = NewDisposeScope();
        var path = TestFiles.Data("fp8", "fp8.safetensors");
        foreach (var dtype in new[] { ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16 })
        {
            using var module = nn.Linear(4, 3).to(dtype);
            var report = module.LoadWeights(path);
            report.Loaded.ShouldBe(["weight", "bias"], ignoreOrder: true);
            // Codes 0x38 to 0x43: from 1 to 2 in steps of 1/8, then to 2.75 in steps of 1/4.
            module
                .state_dict()["weight"]
                .to_type(ScalarType.Float32)
                .flatten()
                .data<float>()
                .ToArray()
                .ShouldBe([1, 1.125f, 1.25f, 1.375f, 1.5f, 1.625f, 1.75f, 1.875f, 2, 2.25f, 2.5f, 2.75f]);
        }
    }

    [Fact]
    public void Large_tensors_are_converted_in_parts()
    {
        using var scope = NewDisposeScope();
        var codes = new byte[(1 << 21) + 5];
        Array.Fill(codes, (byte)0x38);
        codes[1 << 20] = 0x40;
        codes[^1] = 0xb8;
        using var file = WeightsFile.Open(Safetensors("F8_E4M3", $"{codes.Length}", codes));
        using var maps = new TensorMaps();
        var values = file.Read("x", maps);
        values.sum().item<float>().ShouldBe(codes.Length - 2 + 2 - 1);
        values[1 << 20].item<float>().ShouldBe(2);
        values[-1].item<float>().ShouldBe(-1);
    }

    [Theory]
    [InlineData("float8_e4m3fn", "F8_E4M3", 1.125f, 448f)]
    [InlineData("float8_e5m2", "F8_E5M2", 0.625f, float.NaN)]
    public void Tensors_of_checkpoints_are_converted_with_their_strides(string name, string type, float first, float last)
    {
        using var scope = NewDisposeScope();
        byte[] of =
        [
            .. "ctorch._utils\n_rebuild_tensor_v3\n(("u8,
            .. Pickle.Text("storage"),
            .. "ctorch.storage\nUntypedStorage\n"u8,
            .. Pickle.Text("0"),
            .. Pickle.Text("cpu"),
            .. "K\x06tQK\0K\x03K\x02"u8,
            0x86,
            .. "K\x01K\x03"u8,
            0x86,
            0x89,
            .. Encoding.ASCII.GetBytes($")ctorch\n{name}\ntR"),
        ];
        byte[] pickle = [0x80, 2, .. "}"u8, .. Pickle.Text("x"), .. of, .. "s."u8];
        File.WriteAllBytes(_folder["a.pt"], StoredZip.Of(("a/data.pkl", pickle), ("a/data/0", [0x39, 0x38, 0, 0, 0, 0x7e])));
        using var file = WeightsFile.Open(_folder["a.pt"]);
        file.Tensors["x"].Type.ShouldBe(type);
        var read = file.Read("x");
        read.shape.ShouldBe([3, 2]);
        read[0, 0].item<float>().ShouldBe(first);
        read[2, 1].item<float>().ShouldBe(last);
    }

    [Fact]
    public void A_checkpoint_holds_all_codes_of_both_types()
    {
        using var scope = NewDisposeScope();
        byte[] codes = [.. Enumerable.Range(0, 256).Select(code => (byte)code)];
        using var checkpoint = WeightsFile.Open(CheckpointTests.Checkpoint("float8.pt"));
        foreach (var (name, type) in new[] { ("e4m3", "F8_E4M3"), ("e5m2", "F8_E5M2") })
        {
            checkpoint.Tensors[name].Type.ShouldBe(type);
            using var file = WeightsFile.Open(Safetensors(type, "256", codes));
            var expected = file.Read("x").data<float>().ToArray();
            var tensor = checkpoint.Read(name);
            var read = name is "e5m2" ? tensor.t().contiguous() : tensor; // stored by columns
            read.flatten().data<float>().ToArray().ShouldBe(expected);
        }

        Should.Throw<InvalidWeightsException>(() => checkpoint.Read("e8m0")).Message.ShouldContain("the dtype F8_E8M0, which is not supported");
        checkpoint.Read("bias").sum().item<float>().ShouldBe(3);
    }

    [Theory]
    [InlineData("f4.safetensors", "F4")]
    [InlineData("fp8e8m0.safetensors", "F8_E8M0")]
    public void Other_types_are_listed_and_fail_only_when_they_are_read(string name, string type)
    {
        using var scope = NewDisposeScope();
        var path = TestFiles.Data("fp8", name);
        using var module = nn.Linear(4, 3);
        module.LoadWeights(path, new LoadOptions { KeyMap = key => key is "scale" ? null : key });
        module.state_dict()["bias"].data<float>().ToArray().ShouldBe([1, 2, 3]);
        using var file = WeightsFile.Open(path);
        file.Tensors["scale"].Type.ShouldBe(type);
        var problem = Should.Throw<InvalidWeightsException>(() => file.Read("scale")).Message;
        problem.ShouldContain($"tensor 'scale' has the dtype {type}, which is not supported");
        Should
            .Throw<InvalidWeightsException>(() =>
                module.LoadWeights(path, new LoadOptions { KeyMap = key => key is "bias" ? null : key.Replace("scale", "bias") })
            )
            .Message.ShouldContain($"bias: the file has the dtype {type}, which is not supported");
    }

    [Theory]
    [InlineData("weight_scale", "", 0.5f)]
    [InlineData("scale_weight", "1", 0.5f)]
    [InlineData("weight_scale", "3,1", 0.5f, 2f, -1f)]
    [InlineData("weight_scale", "3", 0.5f, 2f, -1f)]
    public void Scales_of_weights_are_applied(string name, string shape, params float[] scales)
    {
        using var scope = NewDisposeScope();
        byte[] codes = [.. Enumerable.Range(0x38, 12).Select(code => (byte)code)]; // 1, 1.125, ... 2.75
        var path = Safetensors(
            ("proj.weight", "F8_E4M3", "3,4", codes),
            ($"proj.{name}", "F32", shape, [.. scales.SelectMany(BitConverter.GetBytes)]),
            ("proj.input_scale", "F32", "", BitConverter.GetBytes(7f)),
            ("proj.bias", "F32", "3", [.. new float[] { 1, 2, 3 }.SelectMany(BitConverter.GetBytes)]),
            ("scaled_fp8", "F8_E4M3", "0", [])
        );
        foreach (var dtype in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            using var proj = nn.Linear(4, 3).to(dtype);
            using var module = nn.Sequential(("proj", proj));
            var report = module.LoadWeights(path);
            report.Loaded.ShouldBe(["proj.weight", "proj.bias"], ignoreOrder: true);
            report.Scales.ShouldBe([$"proj.{name}"]);
            report.Dropped.ShouldBe(["proj.input_scale", "scaled_fp8"], ignoreOrder: true);
            float[] stored = [1, 1.125f, 1.25f, 1.375f, 1.5f, 1.625f, 1.75f, 1.875f, 2, 2.25f, 2.5f, 2.75f];
            module
                .state_dict()["proj.weight"]
                .to_type(ScalarType.Float32)
                .flatten()
                .data<float>()
                .ToArray()
                .ShouldBe(stored.Select((value, i) => value * scales[scales.Length == 1 ? 0 : i / 4]));
        }

        // A map of names that omits the scale does not change the weights, and a wrapper around all names is found as usual.
        using var linear = nn.Linear(4, 3);
        linear.LoadWeights(path, new LoadOptions { KeyMap = key => key is "proj.weight" or "proj.bias" ? key[5..] : null });
        linear.weight![0, 0].item<float>().ShouldBe(scales[0]);
        using var file = WeightsFile.Open(path);
        file.Read("proj.weight")[0, 0].item<float>().ShouldBe(1); // as it is stored
    }

    [Theory]
    [InlineData("F32", "2,2", 16, "its scale 'weight_scale' is F32 [2, 2]; supported are")]
    [InlineData("F32", "4", 16, "its scale 'weight_scale' is F32 [4]; supported are")]
    [InlineData("F8_E8M0", "3", 3, "its scale 'weight_scale' is F8_E8M0 [3]; supported are")]
    public void Other_scales_are_an_error(string type, string shape, int bytes, string message)
    {
        using var module = nn.Linear(4, 3, hasBias: false);
        var before = module.weight!.sum().item<float>();
        var path = Safetensors(("weight", "F8_E4M3", "3,4", new byte[12]), ("weight_scale", type, shape, new byte[bytes]));
        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(path)).Message.ShouldContain(message);
        module.weight!.sum().item<float>().ShouldBe(before);
    }

    [Fact]
    public void A_scale_beside_other_weights_or_in_the_model_itself_is_an_ordinary_tensor()
    {
        var path = Safetensors(("weight", "F32", "1,1", BitConverter.GetBytes(3f)), ("weight_scale", "F32", "", BitConverter.GetBytes(2f)));
        using var linear = nn.Linear(1, 1, hasBias: false);
        Should.Throw<InvalidWeightsException>(() => linear.LoadWeights(path)).Report!.Unexpected.ShouldBe(["weight_scale"]);

        path = Safetensors(("weight", "F8_E4M3", "1,1", [0x40]), ("weight_scale", "F32", "1", BitConverter.GetBytes(5f)));
        using var module = new Scaled();
        module.LoadWeights(path).Loaded.ShouldBe(["weight", "weight_scale"], ignoreOrder: true);
        module.parameters().Select(parameter => parameter.item<float>()).ShouldBe([2, 5]);
    }

    private sealed class Scaled : nn.Module
    {
        public Scaled()
            : base("scaled")
        {
            register_parameter("weight", new TorchSharp.Modules.Parameter(zeros(1, 1)));
            register_parameter("weight_scale", new TorchSharp.Modules.Parameter(zeros(1)));
        }
    }

    private string Safetensors(params (string Name, string Type, string Shape, byte[] Data)[] tensors)
    {
        var end = 0;
        var entries = tensors.Select(t =>
            $$$"""
                "{{{t.Name}}}":{"dtype":"{{{t.Type}}}","shape":[{{{t.Shape}}}],"data_offsets":[{{{end}}},{{{end += t.Data.Length}}}]}
                """
        );
        var header = Encoding.UTF8.GetBytes($"{{{string.Join(',', entries)}}}");
        File.WriteAllBytes(_folder["b.safetensors"], [.. BitConverter.GetBytes((long)header.Length), .. header, .. tensors.SelectMany(t => t.Data)]);
        return _folder["b.safetensors"];
    }

    private string Safetensors(string type, string shape, byte[] data)
    {
        var header = Encoding.UTF8.GetBytes($$$"""{"x":{"dtype":"{{{type}}}","shape":[{{{shape}}}],"data_offsets":[0,{{{data.Length}}}]}}""");
        File.WriteAllBytes(_folder["a.safetensors"], [.. BitConverter.GetBytes((long)header.Length), .. header, .. data]);
        return _folder["a.safetensors"];
    }
}
