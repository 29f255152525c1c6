using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>Which section of a checkpoint is loaded, and how moving averages are found in it.</summary>
public sealed class SectionTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("ema_alone.pt", "ema_model.", 100)]
    [InlineData("ema_wrapped.pt", "ema, ema_model.module._orig_mod.", 100)]
    [InlineData("ema_swa.pt", "ema, module.", 100)]
    [InlineData("ema_beside.pt", "state_dict, ema_model.", 100)]
    [InlineData("ema_incomplete.pt", "net", 0)]
    [InlineData("backup.pt", "", 0)]
    public void The_section_that_fits_is_loaded_and_averages_are_preferred(string name, string unwrapped, int first)
    {
        using var scope = NewDisposeScope();
        using var module = nn.Linear(4, 3);
        var report = module.LoadWeights(CheckpointTests.Checkpoint(name));
        report.IsComplete.ShouldBeTrue();
        report.Loaded.ShouldBe(["weight", "bias"], ignoreOrder: true);
        string.Join(", ", report.Unwrapped).ShouldBe(unwrapped);
        Values(module.weight!).ShouldBe(Enumerable.Range(first, 12).Select(i => (float)i));
        Values(module.bias!).ShouldBe(Enumerable.Range(first + 12, 3).Select(i => (float)i));
    }

    [Fact]
    public void The_checkpoint_of_a_trainer_with_ema_pytorch_is_loaded()
    {
        using var scope = NewDisposeScope();
        using var module = nn.Linear(4, 3);
        var report = module.LoadWeights(CheckpointTests.Checkpoint("lucid.pt"));
        report.Unwrapped.ShouldBe(["ema", "ema_model."]);
        report.Dropped.ShouldBe(["initted", "step", "online_model.weight", "online_model.bias"], ignoreOrder: true);
        var averages = Values(module.weight!);
        module.LoadWeights(CheckpointTests.Checkpoint("lucid.pt"), new LoadOptions { Section = "ema" }).Unwrapped.ShouldBe(["ema", "ema_model."]);
        Values(module.weight!).ShouldBe(averages);
        module.LoadWeights(CheckpointTests.Checkpoint("lucid.pt"), new LoadOptions { Section = "model" }).Unwrapped.ShouldBe(["model"]);
        using var file = WeightsFile.Open(CheckpointTests.Checkpoint("lucid.pt"), "ema");
        Values(file.Read("ema_model.weight")).ShouldBe(averages);
        Values(file.Read("online_model.weight")).ShouldBe(Values(module.weight!));
    }

    [Fact]
    public void A_section_with_the_right_names_and_other_shapes_does_not_fit()
    {
        using var scope = NewDisposeScope();
        using var module = nn.Linear(2, 2);
        module.LoadWeights(CheckpointTests.Checkpoint("ema_incomplete.pt")).Unwrapped.ShouldBe(["opt"]);
        Values(module.weight!).ShouldBe([1, 1, 1, 1]);
    }

    [Fact]
    public void Sections_that_fit_equally_well_are_listed_unless_one_is_named()
    {
        using var scope = NewDisposeScope();
        using var module = nn.Linear(4, 3);
        var path = CheckpointTests.Checkpoint("alike.pt");
        var problem = Should.Throw<InvalidWeightsException>(() => module.LoadWeights(path)).Message;
        problem.ShouldContain("'student' and 'teacher' fit the model equally well");
        problem.ShouldContain("LoadOptions.Section");
        module.LoadWeights(path, new LoadOptions { Section = "teacher" });
        Values(module.bias!).ShouldBe([112, 113, 114]);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("ema")]
    public void If_no_section_fits_the_error_says_how_well_each_does(string? section)
    {
        using var module = nn.Linear(4, 3);
        var exception = Should.Throw<InvalidWeightsException>(() =>
            module.LoadWeights(CheckpointTests.Checkpoint("none_fits.pt"), new LoadOptions { Section = section })
        );
        exception.Message.ShouldContain("'model' (1 of the model's 2 tensors, 2 in it)");
        exception.Message.ShouldContain("'ema' (0 of the model's 2 tensors, 1 in it)");
        exception.Message.ShouldContain("'generator' (0 of the model's 2 tensors, 1 in it)");
        exception.Message.ShouldContain("set LoadOptions.Section, for example Section = \"model\"");
        exception.Report!.Unwrapped.ShouldBe([section ?? "model"]);
    }

    [Fact]
    public void A_safetensors_file_of_averages_is_loaded()
    {
        using var scope = NewDisposeScope();
        using var module = nn.Linear(4, 3);
        SafetensorsWriter.Write(
            _folder["ema"],
            new Dictionary<string, Tensor>
            {
                ["initted"] = tensor(true),
                ["step"] = tensor(3L),
                ["ema_model.weight"] = ones(3, 4),
                ["ema_model.bias"] = ones(3),
                ["online_model.weight"] = zeros(3, 4),
                ["online_model.bias"] = zeros(3),
            }
        );
        module.LoadWeights(_folder["ema"]).Unwrapped.ShouldBe(["ema_model."]);
        Values(module.bias!).ShouldBe([1, 1, 1]);

        SafetensorsWriter.Write(
            _folder["other"],
            [
                KeyValuePair.Create("ema_model.weight", ones(3, 4)),
                KeyValuePair.Create("ema_model.bias", ones(3)),
                KeyValuePair.Create("more", ones(1)),
            ]
        );
        Should.Throw<InvalidWeightsException>(() => module.LoadWeights(_folder["other"])).Report!.Unexpected.ShouldBe(["more"]);
    }

    private static float[] Values(Tensor tensor) => tensor.detach().flatten().data<float>().ToArray();
}
