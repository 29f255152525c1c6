using System.Drawing;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests requests that change an existing video: by strength, by region and by frame.</summary>
[Collection(nameof(LiveTensorCount))]
public class VideoEditTests
{
    // Each frame and each 4x4 block has a color of its own.
    private static VideoFrames Clip(int frames = 4, int size = 32) =>
        new(
            Enumerable
                .Range(0, frames * size * size)
                .SelectMany(i => new[] { (byte)(i / (size * size) * 40 + 30), (byte)(i % size / 4 * 20), (byte)(i / size % size / 4 * 20) })
                .ToArray(),
            frames,
            size,
            size,
            8
        );

    private static double Difference(VideoFrames a, VideoFrames b) => a.Pixels.ToArray().Zip(b.Pixels.ToArray(), (x, y) => Math.Abs(x - y)).Average();

    [Fact]
    public async Task A_higher_strength_changes_more()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var clip = Clip();
        List<double> changes = [];
        foreach (var strength in new[] { 0.25, 0.5, 1 })
        {
            var video = await generator.Request("a goat").Seed(1).EditVideo(clip, strength).GenerateAsync();
            changes.Add(Difference(video.Frames, clip));
        }

        changes.ShouldBe(changes.Order());
        changes[0].ShouldBeLessThan(changes[2] / 2);
    }

    [Fact]
    public async Task The_length_is_that_of_the_video_and_an_image_is_repeated()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        (await generator.Request("a goat").EditVideo(Clip(7), 0.3).GenerateAsync()).Frames.Count.ShouldBe(7);
        (await generator.Request("a goat").EditVideo(Clip(1), 0.3).GenerateAsync()).Frames.Count.ShouldBe(4); // the model's default
        (await generator.Request("a goat").Frames(6).Size(24, 16).EditVideo(Clip(6, 64), 0.3).GenerateAsync()).Frames.Width.ShouldBe(24);
        var error = await Should.ThrowAsync<ArgumentException>(() => generator.Request("a goat").Frames(5).EditVideo(Clip(7)).GenerateAsync());
        error.Message.ShouldContain("has 7 frames, but Frames is 5");
    }

    [Fact]
    public async Task What_a_mask_keeps_stays_the_same_to_the_bit()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var clip = Clip();
        var mask = clip.Mask(new Rectangle(8, 12, 12, 8), 1..3);
        var video = (await generator.Request("a goat").Seed(1).Inpaint(clip, mask).GenerateAsync()).Frames;
        var (changed, all) = (0, 0);
        for (var i = 0; i < video.Pixels.Length; i++)
        {
            if (mask.Pixels.Span[i] == 0)
            {
                video.Pixels.Span[i].ShouldBe(clip.Pixels.Span[i]);
            }
            else
            {
                all++;
                changed += video.Pixels.Span[i] == clip.Pixels.Span[i] ? 0 : 1;
            }
        }

        all.ShouldBe(2 * 12 * 8 * 3);
        changed.ShouldBeGreaterThan(all / 2);
        var rest = clip.Mask(frames: 2..);
        var end = (await generator.Request("a goat").Seed(1).Inpaint(clip, rest).GenerateAsync()).Frames;
        end.Slice(0, 2).Pixels.ToArray().ShouldBe(clip.Slice(0, 2).Pixels.ToArray());
        end.Frame(3).ToArray().ShouldNotBe(clip.Frame(3).ToArray());
    }

    [Fact]
    public async Task What_is_kept_matters_to_what_is_generated()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var (clip, dark) = (Clip(), new VideoFrames(new byte[4 * 32 * 32 * 3], 4, 32, 32, 8));
        var mask = clip.Mask(new Rectangle(16, 0, 16, 32));
        var one = (await generator.Request("a goat").Seed(1).Inpaint(clip, mask).GenerateAsync()).Frames;
        var other = (await generator.Request("a goat").Seed(1).Inpaint(dark, mask).GenerateAsync()).Frames;
        one.Frame(0).Slice(16 * 3, 16 * 3).ToArray().ShouldNotBe(other.Frame(0).Slice(16 * 3, 16 * 3).ToArray());
    }

    [Theory]
    [InlineData(SamplerKind.Iddpm)]
    [InlineData(SamplerKind.Ddim)]
    [InlineData(SamplerKind.DpmSolver)]
    public async Task Every_sampler_edits(SamplerKind sampler)
    {
        using var model = new TinyModel(d => d with { Sampling = d.Sampling with { Sampler = sampler } });
        var before = TensorCount.Now;
        using (var generator = model.Whole())
        {
            var clip = Clip();
            var video = (await generator.Request("a goat").Seed(1).Inpaint(clip, clip.Mask(frames: 1..2), 0.5).GenerateAsync()).Frames;
            video.Frame(0).ToArray().ShouldBe(clip.Frame(0).ToArray());
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public async Task What_is_wrong_is_said_before_the_work()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var clip = Clip();
        var black = new VideoFrames(new byte[clip.Pixels.Length], 4, 32, 32, 8);
        foreach (
            var (request, message) in new (VideoRequest, string)[]
            {
                (new VideoRequest().EditVideo(clip, 0), "The strength is 0"),
                (new VideoRequest().EditVideo(clip, double.NaN), "The strength is NaN"),
                (new VideoRequest().Inpaint(clip, black), "black everywhere"),
                (new VideoRequest().Inpaint(clip, Clip(4, 16).Mask()), "16x16"),
                (new VideoRequest().Inpaint(clip, clip.Slice(0, 3).Mask()), "The mask has 3 frames"),
                (new VideoRequest().EditVideo(clip).ConditionOn(clip), "use one of them"),
            }
        )
        {
            List<GenerationStage> stages = [];
            var error = await Should.ThrowAsync<ArgumentException>(() =>
                generator.GenerateAsync(request, new Listener(progress => stages.Add(progress.Stage)))
            );
            error.Message.ShouldContain(message);
            stages.ShouldNotContain(GenerationStage.EncodingText);
        }
    }

    [Fact]
    public void Masks_select_regions_and_frames()
    {
        var mask = Clip().Mask(new Rectangle(-5, 30, 8, 10), ^1..);
        mask.Pixels.ToArray().Count(value => value == 255).ShouldBe(3 * 2 * 3);
        mask.Frame(3).Span[30 * 32 * 3].ShouldBe((byte)255);
        Clip().Mask().Pixels.ToArray().ShouldAllBe(value => value == 255);
        Should.Throw<ArgumentOutOfRangeException>(() => Clip().Mask(frames: 2..9));
    }
}
