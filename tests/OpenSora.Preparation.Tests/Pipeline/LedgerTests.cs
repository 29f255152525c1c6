using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;
using OpenSora.Preparation.Pipeline;

namespace OpenSora.Preparation.Tests.Pipeline;

public class LedgerTests
{
    private static readonly SourceInfo s_info = new()
    {
        Path = "a.mp4",
        Width = 64,
        Height = 48,
        FramesPerSecond = 25,
    };

    [Fact]
    public void A_ledger_continues_where_it_was()
    {
        using var folder = new TemporaryFolder();
        using (var ledger = new Ledger(folder["ledger.db"]))
        {
            ledger.AddSource("a.mp4", "/x/a.mp4", "1");
            ledger.AddSource("b.mp4", "/x/b.mp4", "1");
            AddClips(ledger, ledger.PendingSources()[0], 3);
            ledger.SetCut(ledger.Clips(ClipState.Planned, 0)[1], new("2", 30, 64, 48, 25), "abc");
            ledger.DropClip(ledger.Clips(ClipState.Planned, 0)[0].Id, "cut", "no frames");
        }

        using var again = new Ledger(folder["ledger.db"]);
        again.PendingSources().Select(source => source.Name).ShouldBe(["b.mp4"]);
        again.Clips(ClipState.Planned, 0).Select(clip => clip.Number).ShouldBe([3]);
        var cut = again.Clips(ClipState.Cut, 0).ShouldHaveSingleItem();
        (cut.Number, cut.Frames, cut.Hash, cut.Info.FramesPerSecond).ShouldBe((2, 30, "abc", 25));
        again.Dropped().ShouldBe([new("cut", "no frames", 1)]);
    }

    [Fact]
    public void A_changed_file_is_prepared_again()
    {
        using var folder = new TemporaryFolder();
        using var ledger = new Ledger(folder["ledger.db"]);
        ledger.AddSource("a.mp4", "/x/a.mp4", "1");
        AddClips(ledger, ledger.PendingSources()[0], 3);

        ledger.AddSource("a.mp4", "/x/a.mp4", "1");
        ledger.PendingSources().ShouldBeEmpty();
        ledger.AddSource("a.mp4", "/x/a.mp4", "2");

        ledger.PendingSources().ShouldHaveSingleItem();
        ledger.Clips(ClipState.Planned, 0).ShouldBeEmpty();
    }

    [Fact]
    public void A_removed_file_is_forgotten()
    {
        using var folder = new TemporaryFolder();
        using var ledger = new Ledger(folder["ledger.db"]);
        ledger.AddSource("a.mp4", "/x/a.mp4", "1");
        AddClips(ledger, ledger.PendingSources()[0], 3);

        ledger.KeepSources(new HashSet<string>());

        ledger.Count("SELECT COUNT(*) FROM clip").ShouldBe(0);
    }

    [Fact]
    public void Clips_are_read_in_pages_in_the_order_of_the_manifest()
    {
        using var folder = new TemporaryFolder();
        using var ledger = new Ledger(folder["ledger.db"]);
        foreach (var name in new[] { "b", "a", "é", "B" })
        {
            ledger.AddSource(name, name, "1");
        }

        foreach (var source in ledger.PendingSources().Reverse())
        {
            AddClips(ledger, source, 3);
        }

        foreach (var clip in ledger.Clips(ClipState.Planned, 0))
        {
            ledger.SetCut(clip, new("x", 1, 1, 1, 1), "");
            ledger.SetScores(clip, "{}");
        }

        List<string> names = [];
        for (var page = ledger.OrderedClips(null, 2); page.Count > 0; page = ledger.OrderedClips(page[^1], 2))
        {
            page.Count.ShouldBeLessThanOrEqualTo(2);
            names.AddRange(page.Select(clip => $"{clip.Source.Name}{clip.Number}"));
        }

        names.ShouldBe(["B1", "B2", "B3", "a1", "a2", "a3", "b1", "b2", "b3", "é1", "é2", "é3"]);
    }

    [Fact]
    public void Two_processes_cannot_use_a_ledger()
    {
        using var folder = new TemporaryFolder();
        using var ledger = new Ledger(folder["ledger.db"]);
        Should.Throw<IOException>(() => new Ledger(folder["ledger.db"])).Message.ShouldContain("another process prepares this folder");
    }

    [Fact]
    public void Another_file_is_not_a_ledger()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["ledger.db"], "this is not a database, but a text that is long enough to be one");
        Should.Throw<IOException>(() => new Ledger(folder["ledger.db"])).Message.ShouldContain("is not a readable ledger");
    }

    private static void AddClips(Ledger ledger, SourceRow source, int count) =>
        ledger.AddClips(
            source,
            s_info,
            damage: null,
            shots: 1,
            shortShots: 0,
            [.. Enumerable.Range(0, count).Select(i => (new TimeRange(TimeSpan.FromSeconds(i), TimeSpan.FromSeconds(i + 1)), $"{i}", (string?)null))]
        );
}
