using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>Sets of shards without an index.</summary>
public sealed class ShardSetTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("model-{0:D5}-of-00003.safetensors", 1)]
    [InlineData("diffusion_pytorch_model.fp16-{0:D5}-of-00003.safetensors", 1)]
    [InlineData("pytorch_model-{0:D5}-of-00003.fp16.bin", 1)]
    [InlineData("model_{0}-of-3.pth", 1)]
    [InlineData("model-{0:D5}-of-00003.safetensors", 0)]
    public void A_complete_set_is_read_as_one_file_from_the_folder_and_from_each_member(string pattern, int first)
    {
        var names = Write(pattern, first, 3);
        File.WriteAllText(_folder["README.md"], "beside");
        File.WriteAllBytes(_folder["._" + names[0]], [0, 5, 22, 7]); // as macOS writes it
        File.WriteAllBytes(_folder[names[0] + ".incomplete"], [1]);
        foreach (var path in names.Select(name => _folder[name]).Prepend(_folder.Path))
        {
            using var scope = NewDisposeScope();
            using var file = WeightsFile.Open(path);
            file.Format.ShouldBe("3 shards, safetensors");
            file.Path.ShouldBe(_folder[names[0]]);
            file.Tensors.Keys.ShouldBe(["t0", "t1", "t2"], ignoreOrder: true);
            file.Metadata["format"].ShouldBe("pt");
            file.Tensors["t1"].Shard.ShouldBe(names[1]);
            file.Read("t1").item<float>().ShouldBe(1);
        }
    }

    [Fact]
    public void Missing_members_are_named()
    {
        var names = Write("model-{0:D5}-of-00004.safetensors", 1, 4);
        File.Delete(_folder[names[0]]);
        File.Delete(_folder[names[2]]);
        foreach (var path in new[] { _folder.Path, _folder[names[1]] })
        {
            var problem = CheckpointTests.Problem(() => WeightsFile.Open(path));
            problem.ShouldContain("one of 4 files");
            problem.ShouldContain("and 'model-00001-of-00004.safetensors', 'model-00003-of-00004.safetensors' are missing");
        }

        using var alone = SafetensorsFile.Open(_folder[names[1]]);
        alone.Tensors.Keys.ShouldBe(["t1"]);
    }

    [Fact]
    public void Several_sets_in_one_folder_are_listed()
    {
        Write("model-{0:D5}-of-00003.safetensors", 1, 3);
        var names = Write("model.fp16-{0:D5}-of-00002.safetensors", 1, 2);
        var problem = CheckpointTests.Problem(() => WeightsFile.Open(_folder.Path));
        problem.ShouldContain("2 sets of shards");
        problem.ShouldContain("model-*-of-00003.safetensors (3 files)");
        problem.ShouldContain("model.fp16-*-of-00002.safetensors (2 files)");
        using (var file = WeightsFile.Open(_folder[names[1]]))
        {
            file.Tensors.Count.ShouldBe(2);
        }

        File.Delete(_folder[names[1]]);
        CheckpointTests.Problem(() => WeightsFile.Open(_folder.Path)).ShouldContain("(1 of 2 files)");
    }

    [Fact]
    public void Other_weights_beside_a_set_are_left_out_and_reported()
    {
        Write("model-{0:D5}-of-00002.safetensors", 1, 2);
        Write("lora{0}.safetensors", 7, 1);
        using var file = WeightsFile.Open(_folder.Path);
        file.Tensors.Keys.ShouldBe(["t0", "t1"]);
        using var module = nn.Linear(1, 1);
        module.LoadWeights(_folder.Path, new LoadOptions { Strict = false }).Skipped.ShouldBe(["lora7.safetensors, a file beside the shards"]);
        File.Copy(_folder["lora7.safetensors"], _folder["model-00003-of-00002.safetensors"]); // beyond the count
        foreach (var name in new[] { "lora7.safetensors", "model-00003-of-00002.safetensors" })
        {
            using var alone = WeightsFile.Open(_folder[name]);
            alone.Format.ShouldBe("safetensors");
        }
    }

    [Fact]
    public void An_index_beside_a_member_is_used()
    {
        var names = Write("model-{0:D5}-of-00002.safetensors", 1, 2);
        File.WriteAllText(
            _folder["model.safetensors.index.json"],
            $$$"""{"metadata": {"total_size": "8"}, "weight_map": {"t0": "{{{names[0]}}}", "t1": "{{{names[1]}}}"}}"""
        );
        using (var file = WeightsFile.Open(_folder[names[1]]))
        {
            file.Path.ShouldEndWith(".index.json");
            file.Metadata["total_size"].ShouldBe("8");
            file.Tensors.Count.ShouldBe(2);
        }

        File.Delete(_folder[names[0]]);
        File.Delete(_folder[names[1]]);
        CheckpointTests
            .Problem(() => WeightsFile.Open(_folder.Path))
            .ShouldContain($"the index names '{names[0]}', '{names[1]}', which do not exist");
    }

    [Fact]
    public void A_tensor_in_two_shards_is_an_error_and_a_set_of_one_is_a_file()
    {
        Write("model-{0:D5}-of-00002.safetensors", 1, 1);
        File.Copy(_folder["model-00001-of-00002.safetensors"], _folder["model-00002-of-00002.safetensors"]);
        CheckpointTests.Problem(() => WeightsFile.Open(_folder.Path)).ShouldContain("'t0' is in two shards");
        Write("one-{0:D5}-of-00001.safetensors", 1, 1);
        using var file = WeightsFile.Open(_folder["one-00001-of-00001.safetensors"]);
        file.Format.ShouldBe("safetensors");
    }

    private List<string> Write(string pattern, int first, int count)
    {
        using var scope = NewDisposeScope();
        var names = new List<string>();
        for (var i = 0; i < count; i++)
        {
            names.Add(string.Format(System.Globalization.CultureInfo.InvariantCulture, pattern, first + i));
            SafetensorsWriter.Write(
                _folder[names[^1]],
                [KeyValuePair.Create($"t{i}", tensor((float)i))],
                new Dictionary<string, string> { ["format"] = "pt" }
            );
        }

        return names;
    }
}
