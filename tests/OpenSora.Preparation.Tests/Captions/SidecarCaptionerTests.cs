using System.Text;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Captions;

public sealed class SidecarCaptionerTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly SidecarCaptioner _captioner = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("clip.txt", "A dog\r\n  runs.\n", "A dog runs.")]
    [InlineData("clip.mp4.txt", "A dog runs.", "A dog runs.")]
    [InlineData("clip.caption", "A dog runs.", "A dog runs.")]
    [InlineData("clip.json", """{"tags": ["dog"], "Caption": "A dog runs."}""", "A dog runs.")]
    [InlineData("clip.json", """{"caption": ["A dog runs.", "A dog."]}""", "A dog runs.")]
    [InlineData("clip.json", """{"description": "A long text.", "text": "A dog runs."}""", "A dog runs.")]
    [InlineData("clip.json", "\"A dog runs.\"", "A dog runs.")]
    [InlineData("film.txt", "A film.", "A film.")]
    public async Task A_caption_is_read(string file, string content, string caption)
    {
        await File.WriteAllTextAsync(_folder[file], content);
        var result = await _captioner.CaptionAsync(Clip);
        (result.Text, result.Source, result.Reason).ShouldBe((caption, "sidecar file", null));
    }

    [Fact]
    public async Task Text_is_strict_UTF_8_or_UTF_16()
    {
        foreach (var encoding in new Encoding[] { new UTF8Encoding(true), Encoding.Unicode, Encoding.BigEndianUnicode })
        {
            await File.WriteAllTextAsync(_folder["clip.txt"], "Ein Hund läuft über die Straße.", encoding);
            (await _captioner.CaptionAsync(Clip)).Text.ShouldBe("Ein Hund läuft über die Straße.");
        }

        await File.WriteAllBytesAsync(_folder["clip.txt"], Encoding.Latin1.GetBytes("Ein Hund läuft."));
        var result = await _captioner.CaptionAsync(Clip);
        result.Reason.ShouldBe("unreadable sidecar file");
        result.Detail!.ShouldContain("Save the file as UTF-8");
        await File.WriteAllBytesAsync(_folder["clip.txt"], Encoding.Unicode.GetBytes("A dog runs."));
        (await _captioner.CaptionAsync(Clip)).Reason.ShouldBe("unreadable sidecar file");
    }

    [Theory]
    [InlineData(null, null, "no sidecar file")]
    [InlineData("clip.txt", " \n", "empty sidecar file")]
    [InlineData("clip.json", "{\"caption\": \"\"}", "empty sidecar file")]
    [InlineData("clip.json", "{\"tags\": []}", "sidecar file without a caption")]
    [InlineData("clip.json", "{\"caption\": ", "unreadable sidecar file")]
    public async Task A_missing_caption_has_a_reason(string? file, string? content, string reason)
    {
        if (file is not null)
        {
            await File.WriteAllTextAsync(_folder[file], content);
        }

        (await _captioner.CaptionAsync(Clip)).ShouldSatisfyAllConditions(each => each.Text.ShouldBeNull(), each => each.Reason.ShouldBe(reason));
    }

    [Fact]
    public async Task A_huge_file_and_a_folder_are_not_captions()
    {
        Directory.CreateDirectory(_folder["clip.txt"]);
        (await _captioner.CaptionAsync(Clip)).Reason.ShouldBe("no sidecar file");
        await File.WriteAllTextAsync(_folder["clip.caption"], new string('a', 2_000_000));
        (await _captioner.CaptionAsync(Clip)).Reason.ShouldBe("sidecar file is too large");
    }

    private ClipToCaption Clip =>
        new()
        {
            Path = _folder["clip.mp4"],
            SourcePath = _folder["film.mkv"],
            Info = new SourceInfo
            {
                Path = _folder["clip.mp4"],
                Width = 64,
                Height = 48,
                FramesPerSecond = 10,
            },
        };
}
