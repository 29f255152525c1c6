using System.Text;
using System.Text.Json;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Runtime;

/// <summary>JSON files with a byte order mark, or in UTF-16.</summary>
public sealed class JsonBytesTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static TheoryData<string> Encodings => ["utf-8", "utf-16", "utf-16BE", "utf-32", "utf-32BE"];

    [Theory]
    [MemberData(nameof(Encodings))]
    public void All_encodings_of_Unicode_give_the_same_bytes(string name)
    {
        const string text = """{"ключ": "🐐"}""";
        var encoding = Encoding.GetEncoding(name);
        foreach (var preamble in new[] { encoding.GetPreamble(), [] })
        {
            JsonBytes.Normalize([.. preamble, .. encoding.GetBytes(text)]).ShouldBe(Encoding.UTF8.GetBytes(text), $"{name}, {preamble.Length}");
        }
    }

    [Fact]
    public void Damaged_UTF_16_is_an_error_and_short_files_stay_as_they_are()
    {
        Should.Throw<JsonException>(() => JsonBytes.Normalize([0xFF, 0xFE, (byte)'{', 0, 0x00, 0xD8])).Message.ShouldContain("UTF-8");
        Should.Throw<JsonException>(() => JsonBytes.Normalize([(byte)'{', 0, (byte)'}'])).Message.ShouldContain("UTF-8");
        byte[][] others =
        [
            [],
            [(byte)'1'],
            "{}"u8.ToArray(),
            [0xC3, 0x28],
        ];
        foreach (var bytes in others)
        {
            JsonBytes.Normalize(bytes).ShouldBe(bytes);
        }
    }

    [Fact]
    public void A_folder_of_a_hub_with_a_byte_order_mark_is_loaded()
    {
        File.ReadAllBytes(TestFiles.Data("json-bom", "config.json"))[..3].ShouldBe(Encoding.UTF8.GetPreamble());
        using var vae = (IDisposable)ModelHub.LoadAutoencoder(TestFiles.Data("json-bom"));
        vae.ShouldBeOfType<AutoencoderKL>();
    }

    [Theory]
    [MemberData(nameof(Encodings))]
    public void The_index_of_shards_is_read(string name)
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(_folder["a.safetensors"], [KeyValuePair.Create("x", ones(1))]);
        var encoding = Encoding.GetEncoding(name);
        File.WriteAllText(_folder["model.safetensors.index.json"], """{"weight_map": {"x": "a.safetensors"}}""", encoding);
        using (var file = WeightsFile.Open(_folder.Path))
        {
            file.Tensors.Keys.ShouldBe(["x"]);
        }

        File.WriteAllText(_folder["model.safetensors.index.json"], """{"weight_map": """, encoding);
        CheckpointProblem().ShouldContain("the index is not valid JSON");

        string CheckpointProblem() => Should.Throw<InvalidWeightsException>(() => WeightsFile.Open(_folder.Path)).Message;
    }

    [Theory]
    [MemberData(nameof(Encodings))]
    public void The_files_of_a_tokenizer_are_read(string name)
    {
        var encoding = Encoding.GetEncoding(name);
        foreach (var file in new[] { "vocab.json", "merges.txt" })
        {
            File.WriteAllText(_folder[file], File.ReadAllText(TestFiles.Data("clip", file)), encoding);
        }

        File.WriteAllText(_folder["special_tokens_map.json"], """{"pad_token": {"content": "!</w>"}}""", encoding);
        var expected = ClipTokenizer.Open(TestFiles.Data("clip"), "!</w>");
        var tokenizer = ClipTokenizer.Open(_folder.Path);
        tokenizer.PadId.ShouldBe(expected.PadId);
        tokenizer.Encode("a red ball", 20).ShouldBe(expected.Encode("a red ball", 20));
    }
}
