using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

public sealed class OnnxScoreTests : IDisposable
{
    private static readonly ScoreColumn Column = new("aesthetic", "a");
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    // Models that return the mean of each channel.
    private string FirstModel(int batch = -1) =>
        Onnx.Write(_folder["first.onnx"], "GlobalAveragePool", ("pixels", Onnx.Float, [batch, 3, 8, 8]), ("means", Onnx.Float, [batch, 3, 1, 1]));

    private string LastModel() =>
        Onnx.Write(
            _folder["last.onnx"],
            "ReduceMean",
            ("pixels", Onnx.Float, [-1, 8, 12, 3]),
            ("means", Onnx.Float, [-1, 3]),
            Onnx.Attribute("axes", [1, 2]),
            Onnx.Attribute("keepdims", 0)
        );

    private static OnnxFrameOptions Options(string path) =>
        new()
        {
            ModelPath = path,
            Width = 8,
            Height = 8,
        };

    private static ClipFrames Colored(int red, int green, int blue, string? caption = null)
    {
        var frames = Enumerable
            .Range(0, 6)
            .Select(i =>
                Enumerable
                    .Range(0, 16 * 9 * 3)
                    .Select(at =>
                        (byte)(
                            at % 3 == 0 ? red + i
                            : at % 3 == 1 ? green
                            : blue
                        )
                    )
                    .ToArray()
            );
        return new(Clips.Info(16, 9), 16, 9, 10, [.. frames]) { Caption = caption };
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(1)]
    public async Task Frames_are_normalized_and_their_scores_averaged(int batch)
    {
        var clip = Colored(200, 100, 50);
        for (var channel = 0; channel < 3; channel++)
        {
            var options = Options(FirstModel(batch));
            using var score = new OnnxFrameScore(Column, options, channel);
            var pixel = new[] { 203, 100, 50 }[channel]; // the mean of the frames 1, 3 and 5
            var expected = ((pixel / 255.0) - options.Mean[channel]) / options.StandardDeviation[channel];

            (await score.ComputeAsync(clip, Token))[0].Number!.Value.ShouldBe(expected, 1e-4);
        }
    }

    [Fact]
    public async Task The_layout_and_the_order_of_channels_are_options()
    {
        var options = new OnnxFrameOptions
        {
            ModelPath = LastModel(),
            Width = 12,
            Height = 8,
            ChannelsLast = true,
            BlueFirst = true,
            Mean = [0, 0, 0],
            StandardDeviation = [1, 1, 1],
            Frames = 1,
        };
        using var score = new OnnxFrameScore(Column, options);

        (await score.ComputeAsync(Colored(200, 100, 51), Token))[0].Number!.Value.ShouldBe(0.2, 1e-5);
    }

    [Fact]
    public async Task A_frame_is_cropped_to_its_center_or_stretched()
    {
        var clip = Clips.Make(1, (_, x, _) => Math.Abs(x) < 15 ? 255 : 0, width: 60, height: 30); // white in the middle half
        var options = Options(FirstModel());
        (options.Mean, options.StandardDeviation) = ([0, 0, 0], [1, 1, 1]);
        using var crop = new OnnxFrameScore(Column, options);
        using var stretch = new OnnxFrameScore(
            Column,
            new()
            {
                ModelPath = options.ModelPath,
                Width = 8,
                Height = 8,
                Fit = FrameFit.Stretch,
                Mean = options.Mean,
                StandardDeviation = options.StandardDeviation,
            }
        );

        (await crop.ComputeAsync(clip, Token))[0].Number!.Value.ShouldBeInRange(0.9, 1);
        (await stretch.ComputeAsync(clip, Token))[0].Number!.Value.ShouldBe(0.5, 0.02);
    }

    [Fact]
    public async Task A_caption_is_compared_with_the_frames()
    {
        // Embeddings: the mean color, and the tokens themselves.
        var text = Onnx.Write(
            _folder["text.onnx"],
            "Cast",
            ("input_ids", Onnx.Int64, [1, 3]),
            ("embedding", Onnx.Float, [1, 3]),
            Onnx.Attribute("to", Onnx.Float)
        );
        var options = Options(FirstModel());
        (options.Mean, options.StandardDeviation, options.Frames) = ([0, 0, 0], [1, 1, 1], 1);
        using var match = new OnnxTextMatchScore(
            new("match", "m"),
            options,
            new() { ModelPath = text, Tokenize = caption => caption is "red" ? [1, 0, 0] : [0, 0, 7] }
        );
        var scorer = new ClipScorer([match]);

        (await scorer.ScoreAsync(Colored(240, 0, 0, "red"), Token))["match"].Number!.Value.ShouldBe(100, 1e-3);
        (await scorer.ScoreAsync(Colored(240, 0, 0, "blue"), Token))["match"].Number!.Value.ShouldBe(0, 1e-3);
        (await scorer.ScoreAsync(Colored(240, 0, 0), Token))["match"].IsMissing.ShouldBeTrue();
    }

    [Fact]
    public async Task Clips_are_scored_in_parallel_with_one_model()
    {
        var options = Options(FirstModel());
        (options.Mean, options.StandardDeviation, options.Frames) = ([0, 0, 0], [1, 1, 1], 1);
        using var score = new OnnxFrameScore(Column, options, outputIndex: 1);

        var values = await Task.WhenAll(
            Enumerable.Range(0, 32).Select(i => Task.Run(async () => (await score.ComputeAsync(Colored(0, i, 0), Token))[0].Number!.Value, Token))
        );

        values.Select(value => Math.Round(value * 255, 2)).ShouldBe(Enumerable.Range(0, 32).Select(i => (double)i));
    }

    [Fact]
    public async Task Models_that_do_not_fit_are_errors_that_say_what_to_do()
    {
        var model = FirstModel();
        Should.Throw<FileNotFoundException>(() => new OnnxFrameScore(Column, Options(_folder["none.onnx"]))).Message.ShouldContain("none.onnx");
        File.WriteAllText(_folder["text.txt"], "no model");
        Should
            .Throw<InvalidDataException>(() => new OnnxFrameScore(Column, Options(_folder["text.txt"])))
            .Message.ShouldContain("is not an ONNX model");
        Should
            .Throw<ArgumentException>(() => new OnnxFrameScore(Column, new() { ModelPath = model }))
            .Message.ShouldContain("is Single [-1, 3, 8, 8], but frames are prepared as Single [1, 3, 224, 224]");
        var named = Options(model);
        named.OutputName = "logits";
        Should
            .Throw<ArgumentException>(() => new OnnxFrameScore(Column, named))
            .Message.ShouldContain("the outputs means, but not 'logits'. Set OutputName");
        using var score = new OnnxFrameScore(Column, Options(model), outputIndex: 3);
        (await Should.ThrowAsync<InvalidOperationException>(async () => await score.ComputeAsync(Colored(1, 1, 1), Token))).Message.ShouldContain(
            "3 values"
        );
    }
}
