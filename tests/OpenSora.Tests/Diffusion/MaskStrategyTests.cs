using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

public class MaskStrategyTests
{
    private static Tensor Video(int frames, float first) =>
        arange(0, frames, ScalarType.Float32).add(first).view(1, frames, 1, 1).expand(2, frames, 1, 1).contiguous();

    private static (float[] Frames, float[] Share) Apply(string text, int loop = 0, int? align = null, int frames = 6)
    {
        using var scope = NewDisposeScope();
        var (latents, share) = MaskStrategy.Apply(Video(frames, 100), [Video(1, 1), Video(5, 10)], MaskStrategy.Parse(text), loop, align);
        return (latents[0].flatten().data<float>().ToArray(), share.data<float>().ToArray());
    }

    [Fact]
    public void Text_is_parsed_and_formatted()
    {
        MaskStrategy.Parse("").ShouldBeEmpty();
        MaskStrategy.Parse("0").ShouldBe([new MaskStrategy()]);
        MaskStrategy
            .Parse("1,2,-3,4,5,0.25; 0, 1")
            .ShouldBe([
                new MaskStrategy
                {
                    Loop = 1,
                    Reference = 2,
                    ReferenceStart = -3,
                    TargetStart = 4,
                    Length = 5,
                    EditRatio = 0.25,
                },
                new MaskStrategy { Reference = 1 },
            ]);
        MaskStrategy.Parse("1,2,-3,4,5,0.25")[0].ToString().ShouldBe("1,2,-3,4,5,0.25");
    }

    [Theory]
    [InlineData("x", "'x' in the mask strategy 'x' is not an integer")]
    [InlineData("0,0.5", "is not an integer; expected loop,reference")]
    [InlineData("0;;0", "is not an integer")]
    [InlineData("0,0,0,0,1,0,0", "has 7 parts")]
    [InlineData("0,0,0,0,1,half", "a non-numeric edit ratio")]
    [InlineData("0,0,0,0,1,1.5", "the edit ratio 1.5 is not between 0 and 1")]
    [InlineData("0,0,0,0,1,NaN", "is not between 0 and 1")]
    [InlineData("0,0,0,0,0", "the length 0 is not greater than 0")]
    [InlineData("0,-1", "the reference -1 is negative")]
    [InlineData("-1", "the loop -1 is negative")]
    public void Other_text_is_rejected(string text, string problem) =>
        Should.Throw<FormatException>(() => MaskStrategy.Parse(text)).Message.ShouldContain(problem);

    [Fact]
    public void Frames_go_where_the_strategy_says()
    {
        var none = Apply("1");
        none.Frames.ShouldBe([100, 101, 102, 103, 104, 105]);
        none.Share.ShouldAllBe(share => share == 1);
        Apply("1", loop: 1).Frames.ShouldBe([1, 101, 102, 103, 104, 105]);

        var (frames, share) = Apply("0,1,-3,1,9,0.5;0,0,0,-1");
        frames.ShouldBe([100, 12, 13, 14, 104, 1]);
        share.ShouldBe([1, 0.5f, 0.5f, 0.5f, 1, 0]);
        Apply("0,1,0,4,5").Frames.ShouldBe([100, 101, 102, 103, 10, 11]);
    }

    [Fact]
    public void Starts_are_aligned()
    {
        Apply("0,1,0,3", align: 5).Share.ShouldBe([1, 1, 1, 1, 1, 0]); // nearer to 5 than to 0
        Apply("0,1,0,2", align: 5).Share.ShouldBe([0, 1, 1, 1, 1, 1]);
        Apply("0,1,0,3", align: 5, frames: 5).Share.ShouldBe([0, 1, 1, 1, 1]); // there is no frame 5
        Apply("0,1,4", align: 5).Frames[0].ShouldBe(10);
    }

    [Theory]
    [InlineData("0,2", "uses reference 2, but there are only 2")]
    [InlineData("0,0,1", "starts at frame 1 of the reference, which has 1")]
    [InlineData("0,0,0,-7", "starts at frame -7 of the video, which has 6")]
    public void Missing_references_are_rejected(string text, string problem)
    {
        var live = TensorCount.Start();
        Should.Throw<ArgumentException>(() => Apply(text)).Message.ShouldContain(problem);
        live.More.ShouldBe(0);
    }

    [Fact]
    public void Shapes_must_fit_and_nothing_is_left()
    {
        var live = TensorCount.Start();
        using (NewDisposeScope())
        {
            var latents = Video(3, 0);
            Should
                .Throw<ArgumentException>(() => MaskStrategy.Apply(latents, [zeros(2, 1, 1, 2)], [new()]))
                .Message.ShouldContain("[2, 1, 1, 2]; expected [2, 3, 1, 1] except for the frames");
            Should
                .Throw<ArgumentException>(() => MaskStrategy.Apply(latents.unsqueeze(0), [], []))
                .Message.ShouldContain("expected the latents of one video");
            Should
                .Throw<ArgumentException>(() => MaskStrategy.Apply(latents, [latents], [new() { EditRatio = -1 }]))
                .Message.ShouldContain("edit ratio -1");
            MaskStrategy.Apply(latents, [latents], [new() { TargetStart = 2 }]).Latents[0, 2, 0, 0].item<float>().ShouldBe(0);
            latents[0, 2, 0, 0].item<float>().ShouldBe(2);
        }
        live.More.ShouldBe(0);
    }
}
