using OpenSora.Generation;
using OpenSora.Media;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests videos that are longer than the model supports, and prompts that change.</summary>
[Collection(nameof(LiveTensorCount))]
public class LongVideoTests
{
    [Fact]
    public void Windows_cover_the_video_and_take_the_prompt_at_their_middle()
    {
        PromptSegment[] segments = [new(10, "b"), new(20, "c")];
        var windows = VideoWindows.Place(26, 8, 4, 2, "a", segments);
        windows.Windows.Select(window => window.Start * 2).ShouldBe([0, 4, 8, 12, 16, 18]);
        windows.Windows.Select(window => windows.Prompts[window.Prompt]).ShouldBe(["a", "a", "b", "b", "c", "c"]);
        (windows.Length, windows.Frames).ShouldBe((4, 8));
        VideoWindows.Place(9, 8, 0, 1, "a", []).Windows.Select(window => window.Start).ShouldBe([0, 1]);
    }

    [Fact]
    public void Predictions_are_averaged_where_windows_overlap()
    {
        using var scope = NewDisposeScope();
        var windows = VideoWindows.Place(6, 4, 2, 1, "a", [new(4, "b")]);
        var combined = windows.Combine([(x, _, _) => full_like(x, 1), (x, _, _) => full_like(x, 3)]);
        var output = combined(zeros([1, 1, 6, 1, 1]), zeros([1]), null).view(-1).data<float>().ToArray();

        // Weights 1, 2, 2, 1 for frames 0 to 3 and 2 to 5.
        output.ShouldBe([1, 1, (2 * 1 + 1 * 3) / 3f, (1 * 1 + 2 * 3) / 3f, 3, 3]);
    }

    [Fact]
    public async Task A_video_can_be_longer_than_the_model_supports()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        await generator.LoadAsync();
        var before = TensorCount.Settled;
        var video = (await generator.Request("a goat").Seed(1).Frames(20).Windows(8).GenerateAsync()).Frames;
        video.Count.ShouldBe(20);
        TensorCount.ShouldBe(before);

        // One window is the same as none.
        var whole = (await generator.Request("a goat").Seed(1).Frames(8).GenerateAsync()).Frames.Pixels.ToArray();
        (await generator.Request("a goat").Seed(1).Frames(8).Windows(8).GenerateAsync()).Frames.Pixels.ToArray().ShouldBe(whole);
        (await generator.Request("a goat").Seed(1).Frames(8).Windows(4, 2).GenerateAsync()).Frames.Pixels.ToArray().ShouldNotBe(whole);
    }

    [Fact]
    public async Task Prompts_change_the_part_that_they_belong_to()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        async Task<VideoFrames> Of(string second) =>
            (await generator.Request("a goat").Seed(1).Frames(16).Windows(4, 0).Then(8, second).GenerateAsync()).Frames;
        var (one, other) = (await Of("a boat"), await Of("a coat"));
        one.Slice(0, 8).Pixels.ToArray().ShouldBe(other.Slice(0, 8).Pixels.ToArray());
        one.Frame(8).ToArray().ShouldNotBe(other.Frame(8).ToArray());
        one.Frame(15).ToArray().ShouldNotBe(other.Frame(15).ToArray());

        // Segments without windows use windows of the model's default length.
        var by4 = await generator.Request("a goat").Seed(1).Frames(8).Then(5, "a boat").GenerateAsync();
        by4.Frames.Pixels.ToArray()
            .ShouldBe((await generator.Request("a goat").Seed(1).Frames(8).Windows(4).Then(5, "a boat").GenerateAsync()).Frames.Pixels.ToArray());
    }

    [Fact]
    public async Task A_long_video_can_be_edited_and_previewed_and_canceled()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var clip = new VideoFrames(Enumerable.Repeat((byte)90, 12 * 32 * 32 * 3).ToArray(), 12, 32, 32, 8);
        List<VideoFrames> previews = [];
        var request = generator.Request("a goat").Seed(1).Windows(4).Inpaint(clip, clip.Mask(frames: 6..)).PreviewEvery(1).Build();
        var video = await generator.GenerateAsync(
            request,
            new Listener(progress => previews.AddRange(progress.Preview is { } preview ? [preview] : []))
        );
        video.Frames.Count.ShouldBe(12);
        video.Frames.Slice(0, 6).Pixels.ToArray().ShouldAllBe(value => value == 90);
        previews.Count.ShouldBe(3);
        previews.ShouldAllBe(preview => preview.Count == 12);
    }

    [Theory]
    [InlineData(20, null, null, "set WindowFrames to 4")]
    [InlineData(20, 9, null, "WindowFrames is 9")]
    [InlineData(20, 4, 4, "WindowOverlap is 4")]
    [InlineData(20, 4, -1, "WindowOverlap is -1")]
    [InlineData(20, 0, null, "WindowFrames is 0")]
    public async Task What_does_not_fit_is_refused(int frames, int? window, int? overlap, string message)
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var error = await Should.ThrowAsync<ArgumentException>(() =>
            generator.Request("a goat").Frames(frames).Windows(window, overlap).GenerateAsync()
        );
        error.Message.ShouldContain(message);
    }

    [Fact]
    public async Task Segments_are_checked()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        async Task<string> Error(params PromptSegment[] segments) =>
            (
                await Should.ThrowAsync<ArgumentException>(() =>
                    generator.GenerateAsync(
                        new VideoRequest
                        {
                            Frames = 16,
                            WindowFrames = 4,
                            Segments = segments,
                        }
                    )
                )
            ).Message;
        (await Error(new PromptSegment(0, "a"))).ShouldContain("begins at frame 0");
        (await Error(new PromptSegment(8, "a"), new PromptSegment(8, "b"))).ShouldContain("in order");
        (await Error(new PromptSegment(16, "a"))).ShouldContain("the video has 16 frames");
        (await Error(new PromptSegment(3, null!))).ShouldContain("is null");
    }
}
