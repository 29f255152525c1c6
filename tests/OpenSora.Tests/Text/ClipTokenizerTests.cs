using System.Text;
using System.Text.Json;
using OpenSora.Text;

namespace OpenSora.Tests.Text;

public sealed class ClipTokenizerTests : IDisposable
{
    private static readonly ClipTokenizer Small = ClipTokenizer.Open(TestFiles.Data("clip"));

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Ids_are_those_of_the_plain_algorithm()
    {
        using var texts = JsonDocument.Parse(File.ReadAllBytes(TestFiles.Data("clip", "texts.json")));
        texts.RootElement.GetArrayLength().ShouldBeGreaterThan(100);
        foreach (var entry in texts.RootElement.EnumerateArray())
        {
            var text = entry.GetProperty("text").GetString()!;
            Small.Encode(text).ShouldBe(entry.GetProperty("ids").EnumerateArray().Select(id => id.GetInt32()), text);
        }
    }

    [Fact]
    public void Texts_get_begin_and_end_tokens_and_are_truncated()
    {
        (Small.Count, Small.BosId, Small.EosId, Small.PadId).ShouldBe((654, 652, 653, 653));
        Small.Encode("", 77).ShouldBe([652, 653]);
        var all = Small.Encode("a photo of a cat");
        Small.Encode("a photo of a cat", all.Count + 2).ShouldBe([652, .. all, 653]);
        Small.Encode("a photo of a cat", 4).ShouldBe([652, all[0], all[1], 653]);
        Small.Encode("a photo of a cat", 2).ShouldBe([652, 653]);
        Should.Throw<ArgumentOutOfRangeException>(() => Small.Encode("a", 1));
    }

    [Fact]
    public void Text_is_cleaned()
    {
        Small.Encode("A \t Cat\n").ShouldBe(Small.Encode("a cat"));
        Small.Encode("cats &amp; dogs").ShouldBe(Small.Encode("cats & dogs"));
        Small.Encode("cats &amp;amp; dogs").ShouldBe(Small.Encode("cats & dogs"));
        Small.Decode(Small.Encode("The Goat's on the BEACH!")).ShouldBe("the goat 's on the beach !");
        Small.Decode([652, .. Small.Encode("猫 🐐"), 653]).ShouldBe("猫 🐐");
        ClipTokenizer.Words("they're 12 x2 (hm...)").ShouldBe(["they", "'re", "1", "2", "x", "2", "(", "hm", "...)"]);
    }

    [Fact]
    public void Every_byte_can_be_spelled()
    {
        foreach (
            var rune in Enumerable
                .Range(0, 0x3000)
                .Where(Rune.IsValid)
                .Select(value => new Rune(value))
                .Where(rune => !Rune.IsWhiteSpace(rune) && rune.Value is not '&' and (< 0x1C or > 0x1F))
        )
        {
            var expected = ClipTokenizer.Clean(rune.ToString());
            Small.Decode(Small.Encode(rune.ToString())).Replace(" ", "").ShouldBe(expected, $"U+{rune.Value:X4}");
        }
    }

    [Fact]
    public void Any_text_is_encoded()
    {
        var random = new Random(7);
        for (var round = 0; round < 3_000; round++)
        {
            var text = string.Concat(
                Enumerable
                    .Range(0, random.Next(40))
                    .Select(_ =>
                        random.Next(4) switch
                        {
                            0 => ((char)random.Next(0x80)).ToString(),
                            1 => ((char)random.Next(0x10000)).ToString(), // unpaired surrogates among them
                            2 => random.Next(0x10000, 0x110000) is var value ? char.ConvertFromUtf32(value) : "",
                            _ => new[] { "<|endoftext|>", "&#xD800;", "&amp;", "'s", "</w>", " ", "\u0301" }[random.Next(7)],
                        }
                    )
            );
            var ids = Small.Encode(text);
            ids.ShouldAllBe(id => id >= 0 && id < Small.Count);
            Small.Decode(ids).Contains('\uFFFD').ShouldBe(ClipTokenizer.Clean(text).Contains('\uFFFD'));
            Small.Encode(text, 5).Count.ShouldBeInRange(2, 5);
        }
    }

    [Fact]
    public void A_word_of_any_length_is_encoded_quickly()
    {
        var ids = Small.Encode(new string('a', 1_000_000));
        ids.Count.ShouldBeGreaterThan(0);
        Small.Decode(ids).Length.ShouldBe(1_000_000);
    }

    [Fact]
    public void The_padding_token_comes_from_the_files_or_the_caller()
    {
        CopyFiles();
        File.WriteAllText(_folder["special_tokens_map.json"], """{"pad_token": "!", "eos_token": {"content": "<|endoftext|>"}}""");
        ClipTokenizer.Open(_folder.Path).PadId.ShouldBe(0);
        File.WriteAllText(_folder["special_tokens_map.json"], """{"pad_token": {"content": "\"", "lstrip": false}}""");
        ClipTokenizer.Open(_folder.Path).PadId.ShouldBe(1);
        ClipTokenizer.Open(_folder.Path, "!").PadId.ShouldBe(0);
        File.WriteAllText(_folder["special_tokens_map.json"], "{}");
        ClipTokenizer.Open(_folder.Path).PadId.ShouldBe(653);
        Should.Throw<InvalidDataException>(() => ClipTokenizer.Open(_folder.Path, "<pad>")).Message.ShouldContain("no piece '<pad>'");
        File.WriteAllText(_folder["special_tokens_map.json"], """{"pad_token": 3}""");
        Should.Throw<InvalidDataException>(() => ClipTokenizer.Open(_folder.Path)).Message.ShouldContain("pad_token");
    }

    [Fact]
    public void Damaged_files_are_rejected()
    {
        Should.Throw<FileNotFoundException>(() => ClipTokenizer.Open(_folder.Path)).Message.ShouldContain("has no vocab.json");
        CopyFiles();
        File.Delete(_folder["merges.txt"]);
        Should.Throw<FileNotFoundException>(() => ClipTokenizer.Open(_folder.Path)).Message.ShouldContain("has no merges.txt");
        CopyFiles();

        var vocabulary = File.ReadAllText(_folder["vocab.json"]);
        void Refused(string reason, string vocab, string? merges = null)
        {
            CopyFiles();
            File.WriteAllText(_folder["vocab.json"], vocab);
            if (merges is not null)
            {
                File.WriteAllText(_folder["merges.txt"], merges);
            }

            var error = Should.Throw<InvalidDataException>(() => ClipTokenizer.Open(_folder.Path));
            error.Message.ShouldContain(reason);
            error.Message.ShouldContain("Expected CLIP's vocab.json and merges.txt.");
        }

        Refused("not a JSON object of pieces and ids", "[1, 2]");
        Refused("not a JSON object of pieces and ids", vocabulary[..100]);
        Refused("It is null", "null");
        Refused("'\"' has the id 0", vocabulary.Replace("\"\\\"\": 1,", "\"\\\"\": 0,"));
        Refused("which represents byte 97", vocabulary.Replace("\"a\":", "\"aaaa\":"));
        Refused("no piece '<|endoftext|>', the end-of-text token", vocabulary.Replace("<|endoftext|>", "<eos>"));
        Refused("its line 3 is 't h e'", vocabulary, "#version: 0.2\nt h\nt h e\n");
        Refused("its line 1 is 'the'", vocabulary, "the\n");
    }

    private void CopyFiles()
    {
        foreach (var name in new[] { "vocab.json", "merges.txt" })
        {
            File.Copy(TestFiles.Data("clip", name), _folder[name], overwrite: true);
        }
    }
}
