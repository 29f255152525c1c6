using System.Text;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Captions;

public sealed class SubtitleCaptionerTests : IDisposable
{
    private const string SubRip = """
        1
        00:00:01,000 --> 00:00:03,000
        <i>Look</i> at the
        {\an8}big dog.

        2
        00:00:03,000 --> 00:00:05,000
        [door closes]

        3
        00:00:05,500 --> 00:00:08,000 X1:40 X2:600
        He runs &amp; jumps.
        4
        00:00:09,000 --> 00:00:09,500
        He runs &amp; jumps.

        garbage
        00:00:12,000 --> 00:00:11,000
        Backwards.

        5
        00:01:00,000 --> 01:00:00,000
        A very long line.
        """;

    private readonly TemporaryFolder _folder = new();
    private readonly SubtitleCaptioner _captioner = new();

    public void Dispose()
    {
        _captioner.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData(0.0, 4.0, "Look at the big dog.")]
    [InlineData(0.0, 10.0, "Look at the big dog. He runs & jumps.")]
    [InlineData(6.0, 10.0, "He runs & jumps.")]
    [InlineData(7.0, 8.5, null)] // 40 % of the line
    [InlineData(3.2, 4.8, null)] // a sound
    [InlineData(11.0, 13.0, null)]
    [InlineData(100.0, 105.0, "A very long line.")]
    public async Task Lines_of_the_time_of_the_clip_are_its_caption(double start, double end, string? caption)
    {
        await File.WriteAllTextAsync(_folder["film.srt"], SubRip);
        var result = await _captioner.CaptionAsync(Clip(start, end));
        result.Text.ShouldBe(caption);
        result.Source.ShouldBe(caption is null ? "" : "subtitles");
        result.Reason.ShouldBe(caption is null ? "no subtitles during the clip" : null);
    }

    [Fact]
    public async Task WebVTT_is_read()
    {
        await File.WriteAllTextAsync(
            _folder["film.en.vtt"],
            "WEBVTT - title\r\n\r\nNOTE 00:00 --> is not a time\r\n\r\nSTYLE\r\n::cue { color: red }\r\n\r\nid\r\n00:01.000 --> 00:02.000 align:start\r\n"
                + "<v Anna><c.red>A dog</c> <00:01.500>is coming.\r\n\r\n01:00:00.000 --> 01:00:02.000\r\nThe end.\r\n",
            Encoding.Unicode
        );
        (await _captioner.CaptionAsync(Clip(0, 5))).Text.ShouldBe("A dog is coming.");
    }

    [Fact]
    public async Task Sounds_can_be_kept_and_a_language_can_be_preferred()
    {
        await File.WriteAllTextAsync(_folder["film.de.srt"], SubRip.Replace("[door closes]", "[Die Tür geht zu]", StringComparison.Ordinal));
        await File.WriteAllTextAsync(_folder["film.en.srt"], SubRip);
        using var captioner = new SubtitleCaptioner { KeepSounds = true, Language = "en" };
        (await captioner.CaptionAsync(Clip(3.2, 4.8))).Text.ShouldBeNull();
        using var two = new SubtitleCaptioner
        {
            KeepSounds = true,
            Language = "en",
            MinWords = 2,
        };
        (await two.CaptionAsync(Clip(3.2, 4.8))).Text.ShouldBe("[door closes]");
        using var any = new SubtitleCaptioner { KeepSounds = true };
        (await any.CaptionAsync(Clip(3.2, 4.8))).Text.ShouldBe("[Die Tür geht zu]");
    }

    [Fact]
    public async Task Subtitles_in_the_video_are_read()
    {
        await File.WriteAllTextAsync(_folder["text.srt"], SubRip);
        await Videos.MakeAsync(
            "-f",
            "lavfi",
            "-i",
            "color=red:size=32x32:rate=2:duration=12",
            "-i",
            _folder["text.srt"],
            "-c:s",
            "mov_text",
            _folder["with.mp4"]
        );
        await Videos.MakeAsync("-i", _folder["with.mp4"], "-map", "0:v", "-c", "copy", _folder["without.mp4"]);
        var clip = Clip(6, 8.5) with { SourcePath = _folder["with.mp4"] };

        (await _captioner.CaptionAsync(clip)).Text.ShouldBe("He runs & jumps.");
        (await _captioner.CaptionAsync(clip with { SourceStart = TimeSpan.FromSeconds(1) })).Text.ShouldBe("Look at the big dog. He runs & jumps.");
        (await _captioner.CaptionAsync(clip with { SourcePath = _folder["without.mp4"] })).Reason.ShouldBe("no subtitles");
        (await _captioner.CaptionAsync(clip with { SourcePath = _folder["missing.mp4"] })).Reason.ShouldBe("not a readable video");
    }

    [Fact]
    public async Task Subtitles_in_another_encoding_have_a_reason()
    {
        await File.WriteAllBytesAsync(_folder["film.srt"], Encoding.Latin1.GetBytes("1\n00:00:01,000 --> 00:00:03,000\nDie Tür geht zu.\n"));
        var result = await _captioner.CaptionAsync(Clip(0, 5));
        result.Reason.ShouldBe("unreadable subtitles");
        result.Detail!.ShouldContain("Line 3");
    }

    private ClipToCaption Clip(double start, double end) =>
        new()
        {
            Path = _folder["clip.mp4"],
            SourcePath = _folder["film.mkv"],
            SourceStart = TimeSpan.FromSeconds(start),
            SourceEnd = TimeSpan.FromSeconds(end),
            Info = new SourceInfo
            {
                Path = _folder["clip.mp4"],
                Width = 64,
                Height = 48,
                FramesPerSecond = 10,
            },
        };
}
