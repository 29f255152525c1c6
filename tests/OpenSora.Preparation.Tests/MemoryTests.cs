using OpenSora.Preparation.Manifests;
using OpenSora.Preparation.Shots;
using OpenSora.Preparation.Tests.Shots;

namespace OpenSora.Preparation.Tests;

/// <summary>Tests that memory does not grow with the size of the input. They run alone, because they measure the memory of the process.</summary>
[CollectionDefinition(nameof(MemoryTests), DisableParallelization = true)]
[Collection(nameof(MemoryTests))]
public class MemoryTests
{
    [Fact]
    public void Memory_does_not_grow_with_the_length_of_a_video()
    {
        var frames = new Scenes().Shot(1, 20).Dissolve(2, 10, 20).Shot(3, 20).Frames;
        ShotAnalysis[] analyses = [.. DetectorTests.CutDetectors.Select(each => each.Data.Start()), new ThresholdDetector().Start()];
        ShotFrame[] pair = [new(Scenes.Width, Scenes.Height), new(Scenes.Width, Scenes.Height)];
        var found = 0;
        long? before = null;
        for (var i = 0; i < 12_000; i++)
        {
            var frame = pair[i % 2];
            frame.SetRgb(frames[i % frames.Count], i, TimeSpan.FromSeconds(i / 25.0), i == 0 ? null : pair[1 - (i % 2)]);
            found += analyses.Sum(analysis => analysis.Add(frame).Count);
            if (i == 2000)
            {
                before = GC.GetTotalMemory(forceFullCollection: true);
            }
        }

        found.ShouldBeGreaterThan(1000);
        (GC.GetTotalMemory(forceFullCollection: true) - before!.Value).ShouldBeLessThan(1_000_000);
        GC.KeepAlive(analyses);
    }

    [Theory]
    [InlineData("huge.csv")]
    [InlineData("huge.parquet")]
    public async Task A_manifest_of_any_length_is_streamed(string name)
    {
        using var folder = new TemporaryFolder();
        const int count = 150_000;
        var most = 0L;
        var before = GC.GetTotalMemory(forceFullCollection: true);
        (await Manifest.WriteAsync(folder[name], RowsAsync())).ShouldBe(count);
        await foreach (var row in Manifest.ReadAsync(folder[name]))
        {
            Measure(row.NumFrames!.Value);
        }

        // All rows at once need more than 160 MB.
        (most - before).ShouldBeLessThan(100_000_000);

        async IAsyncEnumerable<ManifestRow> RowsAsync()
        {
            await Task.Yield();
            for (var i = 0; i < count; i++)
            {
                Measure(i);
                yield return new ManifestRow
                {
                    Path = $"clips/{i:D8}.mp4",
                    Text = $"caption number {i} of a synthetic manifest {new string('x', 400)}",
                    NumFrames = i,
                    Columns = [new("motion", i / 7d), new("kind", i % 2 == 0 ? "pan" : "tilt")],
                };
            }
        }

        void Measure(int i)
        {
            if (i % 30_000 == 29_999)
            {
                most = Math.Max(most, GC.GetTotalMemory(forceFullCollection: true));
            }
        }
    }
}
