using Microsoft.Data.Sqlite;
using OpenSora.Preparation.Captions;

namespace OpenSora.Preparation.Tests.Captions;

public class CaptionCacheTests(ClipFixture fixture) : IClassFixture<ClipFixture>
{
    [Fact]
    public async Task The_same_frames_prompt_and_model_are_asked_once()
    {
        using var folder = new TemporaryFolder();
        await using var server = await CaptionServer.StartAsync(request => $"A dog runs on beach number {request.Number}.");
        using var client = ChatClients.Ollama(server);
        var copy = folder["copy.mp4"];
        File.Copy(fixture.Clip.Path, copy);
        using (var cache = new CaptionCache(folder["cache/captions.db"]))
        {
            using var captioner = new ChatCaptioner(client, Clips.Quick(), cache);
            (await captioner.CaptionAsync(fixture.Clip)).IsFromCache.ShouldBeFalse();
            var again = await captioner.CaptionAsync(fixture.Clip with { Path = copy });
            (again.Text, again.IsFromCache, again.InputTokens).ShouldBe(("A dog runs on beach number 0.", true, null));
            (cache.Count, server.Requests).ShouldBe((1, 1));
        }

        using (var cache = new CaptionCache(folder["cache/captions.db"]))
        {
            // Other limits need no request; another prompt, model or layout does.
            var options = Clips.Quick();
            options.MinWords = 50;
            options.ClipPrompt = new string(CaptionPrompts.ForClip(3, "from top to bottom", 60));
            using (var captioner = new ChatCaptioner(client, options, cache))
            {
                var result = await captioner.CaptionAsync(fixture.Clip);
                (result.Reason, result.IsFromCache, server.Requests).ShouldBe(("too short", true, 1));
            }

            var requests = 1;
            foreach (
                var change in new Action<ChatCaptionerOptions>[]
                {
                    each => each.ClipPrompt = "What is this?",
                    each => each.Model = "moondream",
                    each => each.Layout = FrameLayout.SeparateImages,
                    each => each.FrameSize = 32,
                    each => each.FramePositions = [0.5],
                    each => each.Temperature = 0.5f,
                }
            )
            {
                var changed = Clips.Quick();
                change(changed);
                using var captioner = new ChatCaptioner(client, changed, cache);
                (await captioner.CaptionAsync(fixture.Clip)).IsFromCache.ShouldBeFalse();
                server.Requests.ShouldBe(++requests);
                (await captioner.CaptionAsync(fixture.Clip)).IsFromCache.ShouldBeTrue();
            }
        }
    }

    [Fact]
    public async Task With_a_content_hash_the_file_is_not_decoded_again()
    {
        using var folder = new TemporaryFolder();
        await using var server = await CaptionServer.StartAsync();
        using var client = ChatClients.Ollama(server);
        using var cache = new CaptionCache(folder["captions.db"]);
        using var captioner = new ChatCaptioner(client, Clips.Quick(), cache);
        var clip = fixture.Clip with { ContentHash = "abc" };

        var first = await captioner.CaptionAsync(clip);
        var second = await captioner.CaptionAsync(clip with { Path = folder["deleted.mp4"] });

        (second.Text, second.IsFromCache, server.Requests).ShouldBe((first.Text, true, 1));
        (await captioner.CaptionAsync(clip with { Path = folder["deleted.mp4"], ContentHash = "abd" })).Reason.ShouldBe("cannot be decoded");
    }

    [Fact]
    public async Task Refusals_are_kept_but_not_empty_answers_and_failures()
    {
        using var folder = new TemporaryFolder();
        var answers = new Queue<ServerAnswer>([ServerAnswer.Error(500), "", "<html>", "I'm sorry, I can't do that.", "A dog runs on a beach."]);
        await using var server = await CaptionServer.StartAsync(_ => answers.Dequeue());
        using var client = ChatClients.Ollama(server);
        using var cache = new CaptionCache(folder["captions.db"]);
        using var captioner = new ChatCaptioner(client, Clips.Quick(retries: 0), cache);

        List<string?> reasons = [];
        for (var i = 0; i < 5; i++)
        {
            reasons.Add((await captioner.CaptionAsync(fixture.Clip)).Reason);
        }

        reasons.ShouldBe(["server error", "empty answer", "not text", "refused", "refused"]);
        answers.Count.ShouldBe(1);
    }

    [Fact]
    public async Task Many_threads_and_instances_share_a_file()
    {
        using var folder = new TemporaryFolder();
        using var first = new CaptionCache(folder["captions.db"]);
        using var second = new CaptionCache(folder["captions.db"]);

        await Parallel.ForAsync(0, 400, (i, _) =>
        {
            (i % 2 == 0 ? first : second).Add(BitConverter.GetBytes(i), new ChatAnswer($"answer {i}", i % 3 == 0 ? null : "stop", i, null));
            return ValueTask.CompletedTask;
        });

        first.Count.ShouldBe(400);
        second.Find(BitConverter.GetBytes(7)).ShouldBe(new ChatAnswer("answer 7", "stop", 7, null));
        first.Find(BitConverter.GetBytes(9)).ShouldBe(new ChatAnswer("answer 9", null, 9, null));
        first.Find(BitConverter.GetBytes(400)).ShouldBeNull();
    }

    [Fact]
    public void Answers_survive_a_copy_taken_while_the_file_is_open()
    {
        // What a killed program leaves: the file and its log, without an orderly end.
        using var folder = new TemporaryFolder();
        using var cache = new CaptionCache(folder["captions.db"]);
        for (var i = 0; i < 100; i++)
        {
            cache.Add(BitConverter.GetBytes(i), new ChatAnswer($"answer {i}", "stop", null, null));
        }

        foreach (var file in Directory.EnumerateFiles(folder.Path, "captions.db*").Where(each => !each.EndsWith("-shm", StringComparison.Ordinal)))
        {
            File.Copy(file, Path.Combine(Directory.CreateDirectory(folder["killed"]).FullName, Path.GetFileName(file)));
        }

        // The log also ends in the middle of an entry.
        using (var log = File.OpenWrite(folder["killed/captions.db-wal"]))
        {
            log.SetLength(log.Length - 1000);
        }

        using var after = new CaptionCache(folder["killed/captions.db"]);
        after.Count.ShouldBe(99);
        after.Find(BitConverter.GetBytes(98))!.Text.ShouldBe("answer 98");
    }

    [Fact]
    public void Another_file_is_an_error_and_is_not_changed()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["text.db"], new string('x', 5000));
        Should.Throw<IOException>(() => new CaptionCache(folder["text.db"])).Message.ShouldContain("cannot be used as a cache of captions");
        File.ReadAllText(folder["text.db"]).ShouldBe(new string('x', 5000));

        using (var connection = new SqliteConnection($"Data Source={folder["other.db"]};Pooling=False"))
        {
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = "CREATE TABLE other (x)";
            command.ExecuteNonQuery();
        }

        Should.Throw<IOException>(() => new CaptionCache(folder["other.db"])).Message.ShouldContain("not a cache of captions");
        Directory.CreateDirectory(folder["folder"]);
        Should.Throw<IOException>(() => new CaptionCache(folder["folder"]));
    }

    // An entry does not wait for the disk: SQLite writes a log ahead of the file.
    [Fact]
    public void Entries_are_written_to_a_log()
    {
        using var folder = new TemporaryFolder();
        using var cache = new CaptionCache(folder["captions.db"]);
        using var connection = new SqliteConnection($"Data Source={folder["captions.db"]};Pooling=False");
        connection.Open();
        using var command = connection.CreateCommand();
        command.CommandText = "PRAGMA journal_mode";
        command.ExecuteScalar().ShouldBe("wal");
    }
}
