using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

public class ClipScorerTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task All_scores_of_a_clip_are_columns_in_a_fixed_order_and_the_same_in_each_run()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=12:duration=1", folder["a.mp4"]);
        var scorer = new ClipScorer();

        var runs = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => scorer.ScoreAsync(path, cancellationToken: Token)));

        runs[0].Keys.ShouldBe(scorer.Columns.Select(column => column.Name));
        runs[0].ShouldBe(runs[1]);
        runs[0].ShouldBe(runs[2]);
        runs[0].Values.ShouldAllBe(value => !value.IsMissing);
        scorer.Columns.Where(column => column.IsText).Select(column => column.Name).ShouldBe(["motion_kind", "hash"]);
    }

    [Fact]
    public void Only_the_scores_that_are_asked_for_are_computed_and_unknown_ones_are_errors()
    {
        new ClipScorer(StandardScores.Create(["pan", "sharpness"]))
            .Columns.Select(column => column.Name)
            .ShouldBe(["sharpness", "motion", "motion_kind", "pan", "tilt", "zoom"]);
        Should.Throw<ArgumentException>(() => StandardScores.Create(["flow"])).Message.ShouldContain("no score 'flow'. The scores are duration, ");
        Should
            .Throw<ArgumentException>(() => new ClipScorer([.. StandardScores.Create(), .. StandardScores.Create(["hash"])]))
            .Message.ShouldContain("'hash'");
    }

    [Fact]
    public async Task A_custom_score_is_a_class()
    {
        var scorer = new ClipScorer([new Brightness()]);
        (await scorer.ScoreAsync(Clips.Make(2, (frame, _, _) => 100 + frame), Token))["brightness"].Number.ShouldBe(100.5);
        await Should.ThrowAsync<InvalidOperationException>(() =>
            new ClipScorer([new Brightness { Extra = true }]).ScoreAsync(Clips.Make(1, (_, _, _) => 1), Token)
        );
    }

    [Fact]
    public async Task Files_that_are_not_videos_are_errors_with_a_reason()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.mp4"], "text");
        var scorer = new ClipScorer();
        (await Should.ThrowAsync<PreparationException>(() => scorer.ScoreAsync(folder["a.mp4"], cancellationToken: Token))).Reason.ShouldBe(
            "not a readable video"
        );
        await Should.ThrowAsync<FileNotFoundException>(() => scorer.ScoreAsync(folder["b.mp4"], cancellationToken: Token));
    }

    [Fact]
    public async Task A_damaged_clip_is_an_error_with_a_reason()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25:duration=2", "-g", "10", "-bf", "0", folder["a.mp4"]);
        var bytes = await File.ReadAllBytesAsync(path, Token);
        new Random(1).NextBytes(bytes.AsSpan(bytes.Length / 2, 2000));
        await File.WriteAllBytesAsync(path, bytes, Token);
        var frames = await ClipFrames.ReadAsync(path, cancellationToken: Token);
        var scorer = new ClipScorer(StandardScores.Create(["sharpness"]));

        var error = await Should.ThrowAsync<PreparationException>(() => scorer.ScoreAsync(path, cancellationToken: Token));

        error.Reason.ShouldBe("damaged");
        error.Message.ShouldContain(frames.Damage!);
        (await scorer.ScoreAsync(frames, Token)).Count.ShouldBe(1);
    }

    private sealed class Brightness : IClipScore
    {
        public bool Extra { get; init; }

        public IReadOnlyList<ScoreColumn> Columns { get; } = [new("brightness", "b")];

        public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
        {
            var sum = 0.0;
            for (var i = 0; i < frames.Count; i++)
            {
                sum += frames.Luma(i)[0];
            }

            return new(Extra ? [sum, sum] : [sum / frames.Count]);
        }
    }
}
