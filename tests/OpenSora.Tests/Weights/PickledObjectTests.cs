using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>Objects of unknown classes in PyTorch checkpoints.</summary>
public sealed class PickledObjectTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("omega.ckpt", "omegaconf.dictconfig.DictConfig")]
    [InlineData("simplens.pth", "types.SimpleNamespace")]
    [InlineData("misc.pth", "__builtin__.complex, __builtin__.slice, __builtin__.xrange")]
    [InlineData("training.pt", "")]
    public void Objects_without_tensors_are_skipped_and_reported(string name, string skipped)
    {
        using var module = nn.Linear(4, 3);
        var report = module.LoadWeights(CheckpointTests.Checkpoint(name), new LoadOptions { KeyMap = Own });
        string.Join(", ", report.Skipped).ShouldBe(skipped);
        report.ToString().Contains("Skipped objects", StringComparison.Ordinal).ShouldBe(skipped.Length > 0);
        module.weight!.sum().item<float>().ShouldBeGreaterThan(0);

        static string? Own(string name) => name is "table" ? null : name.Split('.')[^1];
    }

    [Theory]
    [InlineData("objects2.pth", "__builtin__.getattr")]
    [InlineData("objects4.pth", "my.settings.Outer.Inner")]
    public void Settings_dates_enumerations_and_generators_are_skipped(string name, string ofProtocol)
    {
        using var module = nn.Linear(4, 3);
        var report = module.LoadWeights(CheckpointTests.Checkpoint(name));
        module.bias!.data<float>().ToArray().ShouldBe([12, 13, 14]);
        foreach (
            var skipped in new[]
            {
                "omegaconf.dictconfig.DictConfig",
                "omegaconf.listconfig.ListConfig",
                "deepspeed.runtime.zero.config.ZeroStageEnum",
                "types.SimpleNamespace",
                "datetime.datetime",
                "datetime.timezone",
                "numpy.random._pickle.__generator_ctor",
                ofProtocol,
            }
        )
        {
            report.Skipped.ShouldContain(skipped);
        }

        report.Skipped.ShouldBeUnique();
    }

    [Theory]
    [InlineData("holds_tensor.pth", "my.layers.rebuild")]
    [InlineData("holds_tensor_deep.pth", "omegaconf.dictconfig.DictConfig")]
    [InlineData("whole_model.pth", "torch.nn.modules.linear.Linear")]
    public void Objects_that_hold_tensors_are_refused_by_name(string name, string refused)
    {
        var problem = CheckpointTests.Problem(() => WeightsFile.Open(CheckpointTests.Checkpoint(name)));
        problem.ShouldContain($"names '{refused}'");
        problem.ShouldContain("would have to run to obtain a tensor");
        problem.ShouldContain("No code in the file was executed");
    }

    [Fact]
    public void A_tensor_that_would_have_to_be_made_is_missing_and_its_function_is_named()
    {
        using var module = nn.Linear(4, 3);
        var exception = Should.Throw<InvalidWeightsException>(() => module.LoadWeights(CheckpointTests.Checkpoint("makes_tensor.pth")));
        exception.Report!.Missing.ShouldBe(["weight"]);
        exception.Message.ShouldContain("Skipped objects: my.layers.rebuild");
    }

    [Theory]
    [InlineData("cmy\nMaker\n)R", "my.Maker")] // the file is one object
    [InlineData("}X\u0001\0\0\0mcmy\nModule\n)R}X\u0001\0\0\0wTENSORsbs", "my.Module")] // attributes
    [InlineData("cmy\nDict\n)RX\u0001\0\0\0wTENSORs", "my.Dict")] // an item
    [InlineData("cmy\nDict\n)R(X\u0001\0\0\0wTENSORu", "my.Dict")] // items
    [InlineData("cmy\nList\n)RTENSORa", "my.List")]
    [InlineData("cmy\nList\n)R(TENSORe", "my.List")]
    [InlineData("cmy\nmake\n(]TENSORatR", "my.make")]
    [InlineData("ctorch._utils\n_rebuild_parameter\n(cmy\nmake\n)RtR", "my.make")]
    [InlineData("ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmy\nTensor\n)}tR", "my.Tensor")]
    [InlineData("}X\u0001\0\0\0xcos\nsystem\n(X\u0002\0\0\0idtRs", "os.system")]
    [InlineData("}X\u0001\0\0\0xc__builtin__\neval\n(X\u0001\0\0\0" + "1tRs", "__builtin__.eval")]
    [InlineData("}X\u0001\0\0\0xcos.path\njoin\ns", "os.path.join")]
    public void Every_way_to_give_a_tensor_to_an_object_is_noticed(string pickle, string refused)
    {
        byte[] tensor = Pickle.Tensor("0", 2);
        var bytes = new List<byte> { 0x80, 2 };
        foreach (var (i, part) in pickle.Split("TENSOR").Index())
        {
            bytes.AddRange(i == 0 ? [] : tensor);
            bytes.AddRange(part.Select(c => (byte)c));
        }

        bytes.Add((byte)'.');
        CheckpointTests.Problem(() => WeightsFile.Open(Zip([.. bytes], new byte[8]))).ShouldContain($"names '{refused}'");
    }

    [Theory]
    [InlineData("torch\nfloat8_e8m0fnu", "F8_E8M0")]
    [InlineData("torch\nint4", "torch.int4")]
    public void Tensors_of_unknown_types_are_listed_and_refused_when_read(string type, string shown)
    {
        using var scope = NewDisposeScope();
        byte[] of =
        [
            .. "ctorch._utils\n_rebuild_tensor_v3\n(("u8,
            .. Pickle.Text("storage"),
            .. "ctorch.storage\nUntypedStorage\n"u8,
            .. Pickle.Text("0"),
            .. Pickle.Text("cpu"),
            .. "K\x08tQK\0K\x02"u8,
            0x85,
            .. "K\x01"u8,
            0x85,
            0x89,
            (byte)')',
            .. System.Text.Encoding.ASCII.GetBytes($"c{type}\n"),
            .. "tR"u8,
        ];
        byte[] pickle = [0x80, 2, .. "}("u8, .. Pickle.Text("odd"), .. of, .. Pickle.Text("good"), .. Pickle.Tensor("0", 2), .. "u."u8];
        using var file = WeightsFile.Open(Zip(pickle, [0, 0, 128, 63, 0, 0, 0, 64]));
        file.Tensors["odd"].Type.ShouldBe(shown);
        file.Tensors["odd"].Dtype.ShouldBeNull();
        file.Read("good").data<float>().ToArray().ShouldBe([1, 2]);
        Should.Throw<InvalidWeightsException>(() => file.Read("odd")).Message.ShouldContain($"the dtype {shown}, which is not supported");
    }

    private string Zip(byte[] pickle, byte[] storage)
    {
        File.WriteAllBytes(_folder["a.pt"], StoredZip.Of(("a/data.pkl", pickle), ("a/data/0", storage)));
        return _folder["a.pt"];
    }
}
