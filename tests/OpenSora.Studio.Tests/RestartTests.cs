using System.Diagnostics;
using System.Net.Http.Json;
using System.Text;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>No job is lost when the application stops or is killed.</summary>
public sealed class RestartTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("studio-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task Killing_the_process_in_the_middle_of_three_jobs_loses_none(int workers)
    {
        List<JobView> jobs = [];
        string cookie;
        using (var first = await StudioProcess.StartAsync(_folder, workers))
        {
            using var user = RunningStudio.NewUser(first.Address.ToString());
            foreach (var prompt in new[] { "a goat", "a rocket", "a red apple" })
            {
                jobs.Add(await SubmitAsync(user, prompt));
            }

            await Task.WhenAll(
                jobs.Take(workers)
                    .Select(job => RunningStudio.WaitAsync(user, job.Id, each => each.Progress is { Stage: GenerationStage.Denoising, Step: > 0 }))
            );

            cookie = "studio-user=" + Owner(jobs[0].Id)["browser:".Length..];
            first.Kill();
        }

        // It was killed in the middle.
        var interrupted =
            workers == 1 ? new[] { JobStatus.Running, JobStatus.Queued, JobStatus.Queued } : [.. Enumerable.Repeat(JobStatus.Running, 3)];
        jobs.Select(job => Status(job.Id)).ShouldBe(interrupted);
        var leftOver = Path.Combine(_folder, "videos", $"{jobs[0].Id}.mp4.{Guid.NewGuid():N}.tmp");
        await File.WriteAllTextAsync(leftOver, "half of a video");

        using var second = await StudioProcess.StartAsync(_folder, workers);
        using var again = new HttpClient { BaseAddress = second.Address, DefaultRequestHeaders = { { "Cookie", cookie } } };
        foreach (var job in jobs)
        {
            var finished = await RunningStudio.WaitAsync(again, job.Id, each => each.Finished is not null);
            (finished.Status, finished.Error, finished.Seed).ShouldBe((JobStatus.Succeeded, null, job.Seed), second.Log);
            (await again.GetByteArrayAsync(finished.VideoUrl))[4..8].ShouldBe("ftyp"u8.ToArray());
        }

        var history = await RunningStudio.ReadAsync<JobPage>(await again.GetAsync("/api/jobs"));
        history.Jobs.Select(job => job.Id).ShouldBe(jobs.Select(job => job.Id).Reverse());
        File.Exists(leftOver).ShouldBeFalse();

        // The interrupted job made the video that it would have made without the interruption.
        var repeated = await SubmitAsync(again, "a goat", jobs[0].Seed);
        await RunningStudio.WaitAsync(again, repeated.Id, each => each.Finished is not null);
        var (poster, expected) = (File.ReadAllBytes(Poster(jobs[0])), File.ReadAllBytes(Poster(repeated)));
        poster.ShouldBe(expected);

        string Poster(JobView job) => Path.Combine(_folder, "videos", $"{job.Id}.png");
    }

    [Fact]
    public async Task Stopping_puts_the_running_job_back()
    {
        Guid running,
            waiting;
        string cookie;
        await using (var first = await RunningStudio.StartAsync(folder: _folder))
        {
            running = (await first.SubmitAsync("hold it")).Id;
            await first.HoldAsync(running);
            waiting = (await first.SubmitAsync("a goat")).Id;
            cookie = "studio-user=" + first.Services.GetRequiredService<JobStore>().Find(running)!.Owner["browser:".Length..];
        }

        Status(running).ShouldBe(JobStatus.Queued);
        var fake = new FakeVideoGenerator();
        fake.Release();
        await using var second = await RunningStudio.StartAsync(fake, _folder);
        second.Client.DefaultRequestHeaders.Add("Cookie", cookie);
        (await second.FinishAsync(waiting)).Status.ShouldBe(JobStatus.Succeeded);
        (await second.FinishAsync(running)).Status.ShouldBe(JobStatus.Succeeded);
        fake.Prompts.ShouldBe(["hold it", "a goat"]);
    }

    [Fact]
    public void A_job_that_was_interrupted_too_often_fails()
    {
        var id = Guid.NewGuid();
        using (var store = Open())
        {
            store.Add(id, "me", new JobSettings { Prompt = "a goat" });
        }

        for (var attempt = 1; attempt <= 3; attempt++)
        {
            using var store = Open();
            store.Recover();
            store.TryStart(id)!.Attempts.ShouldBe(attempt); // and then the process dies
        }

        using var last = Open();
        last.Recover();
        last.Find(id)!.Status.ShouldBe(JobStatus.Failed);
        last.Find(id)!.Error!.ShouldContain("stopped 3 times");
        last.TryStart(id).ShouldBeNull();
    }

    [Fact]
    public void A_job_that_was_canceled_before_the_end_of_the_process_does_not_run_again()
    {
        var id = Guid.NewGuid();
        using (var store = Open())
        {
            store.Add(id, "me", new JobSettings { Prompt = "a goat" });
            store.TryStart(id);
            store.RequestCancel(id);
        }

        using var next = Open();
        next.Recover();
        next.Find(id)!.Status.ShouldBe(JobStatus.Canceled);
        next.ListQueued().ShouldBeEmpty();
    }

    [Fact]
    public void A_job_is_started_by_one_worker_only()
    {
        var id = Guid.NewGuid();
        using var store = Open();
        store.Add(id, "me", new JobSettings { Prompt = "a goat" });
        var started = 0;
        Parallel.For(0, 16, _ =>
        {
            if (store.TryStart(id) is not null)
            {
                Interlocked.Increment(ref started);
            }
        });
        started.ShouldBe(1);
    }

    [Fact]
    public void A_folder_belongs_to_one_process()
    {
        using var store = Open();
        Should.Throw<InvalidOperationException>(Open).Message.ShouldContain("is in use by another process");
    }

    private static async Task<JobView> SubmitAsync(HttpClient user, string prompt, long? seed = null)
    {
        var answer = await user.PostAsJsonAsync(
            "/api/jobs",
            new
            {
                prompt,
                seed,
                frames = 1,
                steps = 24, // so that none ends before all have begun
            }
        );
        return await RunningStudio.ReadAsync<JobView>(answer.EnsureSuccessStatusCode());
    }

    private JobStore Open() => new(Options.Create(new StudioOptions { DataFolder = _folder }));

    private JobStatus Status(Guid id)
    {
        using var store = Open();
        return store.Find(id)!.Status;
    }

    // Read while the process has the folder, so not with a store.
    private string Owner(Guid id)
    {
        using var connection = new Microsoft.Data.Sqlite.SqliteConnection(
            $"Data Source={Path.Combine(_folder, "jobs.db")};Mode=ReadOnly;Pooling=false"
        );
        connection.Open();
        using var command = connection.CreateCommand();
        command.CommandText = $"SELECT owner FROM jobs WHERE id = '{id}'";
        return (string)command.ExecuteScalar()!;
    }

    /// <summary>Studio in a process of its own, as it is built.</summary>
    private sealed class StudioProcess : IDisposable
    {
        private readonly Process _process;
        private readonly StringBuilder _log = new();

        private StudioProcess(Process process, Uri address)
        {
            (_process, Address) = (process, address);
            _ = Task.Run(async () =>
            {
                while (await process.StandardOutput.ReadLineAsync() is { } line)
                {
                    lock (_log)
                    {
                        _log.AppendLine(line);
                    }
                }
            });
        }

        public Uri Address { get; }

        /// <summary>Gets what the process has printed after it listened.</summary>
        public string Log
        {
            get
            {
                lock (_log)
                {
                    return _log.ToString();
                }
            }
        }

        public static async Task<StudioProcess> StartAsync(string folder, int workers)
        {
            // From tests/OpenSora.Studio.Tests/bin/Release/net10.0 to the program with the same configuration.
            var output = new DirectoryInfo(AppContext.BaseDirectory);
            var root = output.Parent!.Parent!.Parent!.Parent!.Parent!.FullName;
            var program = Path.Combine(root, "samples", "Studio", "bin", output.Parent!.Name, output.Name, "Studio.dll");
            var start = new ProcessStartInfo("dotnet", [program]) { UseShellExecute = false, RedirectStandardOutput = true };
            start.Environment["Studio__DataFolder"] = folder;
            start.Environment["Studio__Workers"] = $"{workers}";
            start.Environment["ASPNETCORE_URLS"] = "";
            start.Environment["OMP_NUM_THREADS"] = "1"; // the frames are too small for more
            start.Environment["Urls"] = "http://127.0.0.1:0";
            var process = Process.Start(start)!;
            while (await process.StandardOutput.ReadLineAsync() is { } line)
            {
                const string listening = "Now listening on: ";
                if (line.IndexOf(listening, StringComparison.Ordinal) is var at and >= 0)
                {
                    return new(process, new Uri(line[(at + listening.Length)..].Trim()));
                }
            }

            throw new InvalidOperationException($"Studio ended with exit code {process.ExitCode} before it listened.");
        }

        /// <summary>Ends the process with SIGKILL.</summary>
        public void Kill()
        {
            _process.Kill();
            _process.WaitForExit();
        }

        public void Dispose()
        {
            Kill();
            _process.Dispose();
        }
    }
}
