using System.Text;
using FsCheck;
using FsCheck.Fluent;
using OpenSora.Text;

namespace OpenSora.Tests.Text;

/// <summary>Compares ids with those of the sentencepiece package in tests/Data/sentencepiece; see make.sh there.</summary>
public sealed class SentencePieceTests
{
    private static readonly string[] Models = ["t5", "bytes", "casefold", "identity", "suffix"];

    private static readonly Dictionary<string, SentencePieceTokenizer> Tokenizers = Models.ToDictionary(
        name => name,
        name => SentencePieceTokenizer.Open(ModelFile(name))
    );

    public static TheoryData<string> Names => [.. Models];

    [Theory]
    [MemberData(nameof(Names))]
    public void Ids_are_those_of_spm_encode(string model)
    {
        var texts = Encoding.UTF8.GetString(File.ReadAllBytes(TestFiles.Data("sentencepiece", "mixed.txt"))).TrimEnd('\n').Split('\n');
        var expected = File.ReadAllText(TestFiles.Data("sentencepiece", model + ".ids"))[..^1].Split('\n');
        expected.Length.ShouldBe(texts.Length);
        for (var i = 0; i < texts.Length; i++)
        {
            string.Join(' ', Tokenizers[model].Encode(texts[i])).ShouldBe(expected[i], $"line {i + 1}: {texts[i]}");
        }
    }

    [Fact]
    public void Special_ids_are_the_models_own()
    {
        var t5 = Tokenizers["t5"];
        (t5.PadId, t5.EosId, t5.UnknownId, t5.BosId, t5.Count).ShouldBe((0, 1, 2, -1, 500));
        var bytes = Tokenizers["bytes"];
        (bytes.PadId, bytes.EosId, bytes.UnknownId, bytes.BosId).ShouldBe((0, 2, 0, 1));
    }

    [Fact]
    public void A_text_is_truncated_and_keeps_its_end_token()
    {
        var t5 = Tokenizers["t5"];
        var ids = t5.Encode("A goat stands on a hill.");
        t5.Encode("A goat stands on a hill.", 120).ShouldBe([.. ids, 1]);
        t5.Encode("A goat stands on a hill.", ids.Count + 1).ShouldBe([.. ids, 1]);
        t5.Encode("A goat stands on a hill.", ids.Count).ShouldBe([.. ids[..^1], 1]);
        t5.Encode("A goat stands on a hill.", 3).ShouldBe([ids[0], ids[1], 1]);
        t5.Encode("A goat stands on a hill.", 1).ShouldBe([1]);
        t5.Encode("", 120).ShouldBe([1]);
        t5.Encode(" \t\u3000", 120).ShouldBe([1]);
        Should.Throw<ArgumentOutOfRangeException>(() => t5.Encode("a", 0));
    }

    [Fact]
    public void Ten_thousand_characters_are_encoded_and_truncated()
    {
        var text = string.Concat(Enumerable.Repeat("A goat 山羊 🐐 ꙮꙮ ", 700));
        text.Length.ShouldBeGreaterThan(10_000);
        foreach (var name in Models)
        {
            Tokenizers[name].Encode(text).Count.ShouldBeGreaterThan(2_000);
            Tokenizers[name].Encode(text, 120).Count.ShouldBe(120);
        }
    }

    [Fact]
    public void Unknown_characters_in_a_row_become_one_id_or_their_bytes()
    {
        Tokenizers["t5"].Encode("aꙮꙮꙮ").Count(id => id == 2).ShouldBe(1);
        var bytes = Tokenizers["bytes"];
        bytes.Encode("ꙮ")[^3..].Select(id => bytes.Decode([id]).Length).ShouldAllBe(length => length == 1);
        bytes.Decode(bytes.Encode("ꙮ🐐")).ShouldBe("ꙮ🐐");
    }

    [Fact]
    public void Any_text_is_encoded_to_ids_of_the_vocabulary()
    {
        foreach (var name in Models)
        {
            var tokenizer = Tokenizers[name];
            Check.One(
                Config.QuickThrowOnFailure.WithMaxTest(300),
                Prop.ForAll(
                    (string? text) =>
                        tokenizer.Encode(text ?? "").TrueForAll(id => id >= 0 && id < tokenizer.Count) && tokenizer.Encode(text ?? "", 8).Count <= 8
                )
            );
        }
    }

    [Fact]
    public void Byte_fallback_loses_only_what_normalization_removes()
    {
        var tokenizer = Tokenizers["bytes"];
        Check.One(
            Config.QuickThrowOnFailure.WithMaxTest(300),
            Prop.ForAll(
                (string? text) =>
                {
                    var once = tokenizer.Decode(tokenizer.Encode(text ?? ""));
                    return string.Equals(tokenizer.Decode(tokenizer.Encode(once)), once, StringComparison.Ordinal);
                }
            )
        );
    }

    [Fact]
    public void Plain_words_survive_a_round_trip()
    {
        var words = File.ReadAllText(TestFiles.Data("sentencepiece", "corpus.txt")).Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries);
        var identity = Tokenizers["identity"];
        Check.One(Config.QuickThrowOnFailure.WithMaxTest(300), Prop.ForAll(Gen.Elements(words).ArrayOf().ToArbitrary(), (string[] chosen) =>
            {
                var text = string.Join(' ', chosen);
                return string.Equals(identity.Decode(identity.Encode(text)), text, StringComparison.Ordinal);
            }));
    }

    [Fact]
    public void Decoding_rejects_ids_outside_the_vocabulary() =>
        Should.Throw<ArgumentOutOfRangeException>(() => Tokenizers["t5"].Decode([3, 500])).Message.ShouldContain("0 to 499");

    [Fact]
    public void Other_kinds_of_files_are_rejected()
    {
        using var folder = new TemporaryFolder();
        Should.Throw<InvalidDataException>(() => SentencePieceTokenizer.Open(ModelFile("bpe"))).Message.ShouldContain("not a unigram model");
        Should.Throw<InvalidDataException>(() => SentencePieceTokenizer.Open(folder.Path)).Message.ShouldContain("folder");
        Should.Throw<FileNotFoundException>(() => SentencePieceTokenizer.Open(folder["absent"])).Message.ShouldContain("absent");
        foreach (var contents in new[] { "", "{\"model\": {}}", "# text", "\0\0\0\0" })
        {
            File.WriteAllText(folder["other"], contents);
            Should.Throw<InvalidDataException>(() => SentencePieceTokenizer.Open(folder["other"])).Message.ShouldContain($"'{folder["other"]}'");
        }
    }

    [Theory]
    [InlineData("identity")]
    [InlineData("t5")]
    public void Damaged_models_are_rejected_with_one_kind_of_exception_or_still_encode(string model)
    {
        var original = File.ReadAllBytes(ModelFile(model));
        var random = new Random(20240311);
        var refused = 0;
        for (var i = 0; i < 300; i++)
        {
            var bytes = original.ToArray();
            for (var changes = random.Next(1, 10); changes > 0; changes--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            }

            if (random.Next(3) == 0)
            {
                Array.Resize(ref bytes, random.Next(bytes.Length));
            }

            try
            {
                var ids = SentencePieceTokenizer.Parse(bytes).Encode("A goat ｇｏａｔ 山羊 ﷺ e\u0301 🐐 ꙮ", 20);
                ids.Count.ShouldBeInRange(0, 20);
            }
            catch (InvalidDataException)
            {
                refused++;
            }
        }

        refused.ShouldBeGreaterThan(80);
    }

    private static string ModelFile(string name) => TestFiles.Data("sentencepiece", name + ".model");
}
