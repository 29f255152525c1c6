using System.ComponentModel;
using System.Net.ServerSentEvents;
using System.Runtime.CompilerServices;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Api;

/// <summary>The HTTP API. The OpenAPI document at /openapi/v1.json describes it.</summary>
internal static class JobEndpoints
{
    private static readonly TimeSpan PingInterval = TimeSpan.FromSeconds(15);

    public static void MapStudioApi(this IEndpointRouteBuilder app)
    {
        var api = app.MapGroup("/api").ProducesProblem(StatusCodes.Status429TooManyRequests).RequireRateLimiting(Limits.Api);

        api.MapGet("/model", GetModelAsync)
            .WithName("GetModel")
            .WithTags("Model")
            .WithSummary("Gets the model and the settings that it supports")
            .WithDescription("Waits until the model is loaded.")
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);

        var jobs = api.MapGroup("/jobs").WithTags("Jobs");
        jobs.MapPost("/", (JobSettings settings, [AsParameters] Submission submission) => SubmitAsync(Guid.NewGuid(), settings, submission))
            .WithName("SubmitJob")
            .WithSummary("Submits a job")
            .WithDescription("The job waits in the queue and then runs. The response contains its identifier.")
            .Submits();
        jobs.MapPut(
                "/{id:guid}",
                ([Description("A new identifier, chosen by the client.")] Guid id, JobSettings settings, [AsParameters] Submission submission) =>
                    SubmitAsync(id, settings, submission)
            )
            .WithName("PutJob")
            .WithSummary("Submits a job with an identifier chosen by the client")
            .WithDescription(
                "A request that may not have arrived can be repeated: a job with the same identifier and settings is submitted once, "
                    + "and returned with status 200 the second time."
            )
            .Produces<JobView>()
            .ProducesProblem(StatusCodes.Status409Conflict)
            .Submits();
        jobs.MapGet("/", ListAsync)
            .WithName("ListJobs")
            .WithSummary("Lists and searches the user's jobs, the latest first")
            .ProducesValidationProblem();
        jobs.MapGet("/{id:guid}", GetAsync).WithName("GetJob").WithSummary("Gets a job").ProducesProblem(StatusCodes.Status404NotFound);
        jobs.MapPost("/{id:guid}/cancel", CancelAsync)
            .WithName("CancelJob")
            .WithSummary("Cancels a job")
            .WithDescription(
                "A waiting job is canceled at once, and a running one stops before its next step. Canceling a finished job has no effect."
            )
            .ProducesProblem(StatusCodes.Status404NotFound);
        jobs.MapDelete("/{id:guid}", DeleteAsync)
            .WithName("DeleteJob")
            .WithSummary("Deletes a finished job and its video")
            .ProducesProblem(StatusCodes.Status404NotFound)
            .ProducesProblem(StatusCodes.Status409Conflict);

        var files = jobs.MapGroup("/{id:guid}").WithTags("Files").ProducesProblem(StatusCodes.Status404NotFound);
        files
            .MapGet("/video", GetVideoAsync)
            .WithName("GetVideo")
            .WithSummary("Gets the finished video as an MP4 file")
            .WithDescription("Supports ranges. With download=true, browsers save the file instead of playing it.")
            .Produces(StatusCodes.Status200OK, contentType: "video/mp4");
        files
            .MapGet("/poster", GetPosterAsync)
            .WithName("GetPoster")
            .WithSummary("Gets the first frame of the finished video as a PNG file")
            .Produces(StatusCodes.Status200OK, contentType: "image/png");
        files
            .MapGet("/preview", GetPreviewAsync)
            .WithName("GetPreview")
            .WithSummary("Gets the latest picture of an unfinished video as a PNG or JPEG file")
            .Produces(StatusCodes.Status200OK, contentType: "image/png", additionalContentTypes: "image/jpeg");

        var events = api.MapGroup("").WithTags("Events").RequireRateLimiting(Limits.Events);
        events
            .MapGet("/events", GetEvents)
            .WithName("GetEvents")
            .WithSummary("Streams changes of all of the user's jobs as server-sent events")
            .WithDescription(
                "Each event 'job' contains a whole job. The unfinished jobs are sent first, so a client that reconnects needs no last event ID. "
                    + "An event 'ping' is sent if nothing has changed for 15 seconds."
            )
            .Produces<JobView>(StatusCodes.Status200OK, "text/event-stream");
        events
            .MapGet("/jobs/{id:guid}/events", GetJobEventsAsync)
            .WithName("GetJobEvents")
            .WithSummary("Streams the changes of one job as server-sent events, until it has finished")
            .WithDescription("The first event is the current state.")
            .Produces<JobView>(StatusCodes.Status200OK, "text/event-stream")
            .ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static RouteHandlerBuilder Submits(this RouteHandlerBuilder endpoint) =>
        endpoint
            .RequireRateLimiting(Limits.Submit)
            .Produces<JobView>(StatusCodes.Status201Created)
            .ProducesValidationProblem()
            .ProducesProblem(StatusCodes.Status429TooManyRequests)
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);

    private static async Task<Ok<ModelView>> GetModelAsync(ModelInfo model, CancellationToken cancellationToken) =>
        TypedResults.Ok(await model.GetAsync(cancellationToken));

    private readonly record struct Submission(HttpContext Context, ModelInfo Model, JobService Jobs);

    private static async Task<IResult> SubmitAsync(Guid id, JobSettings settings, Submission submission)
    {
        var context = submission.Context;
        var problems = ModelInfo.Problems(settings, await submission.Model.GetAsync(context.RequestAborted));
        if (problems.Count > 0)
        {
            return TypedResults.ValidationProblem(problems, title: "The model does not support these settings.");
        }

        var (outcome, job) = await submission.Jobs.SubmitAsync(id, context.GetUser(), settings);
        return outcome switch
        {
            AddOutcome.Added => TypedResults.Created($"/api/jobs/{id}", JobView.Of(job!)),
            AddOutcome.Exists => TypedResults.Ok(JobView.Of(job!)),
            AddOutcome.Conflict => TypedResults.Problem(
                "A job with this identifier and other settings exists. Choose a new identifier.",
                statusCode: StatusCodes.Status409Conflict
            ),
            AddOutcome.UserLimit => TypedResults.Problem(
                "You have as many unfinished videos as one user can have. Wait for one to finish, or cancel one.",
                statusCode: StatusCodes.Status429TooManyRequests
            ),
            _ => TypedResults.Problem("The queue of the server is full. Try again later.", statusCode: StatusCodes.Status503ServiceUnavailable),
        };
    }

    private static async Task<Results<Ok<JobPage>, ValidationProblem>> ListAsync(
        HttpContext context,
        IJobStore store,
        [Description("Words that the prompt or the negative prompt must contain.")] string? search,
        [Description("The status of the jobs: queued, running, succeeded, failed or canceled.")] string? status,
        [Description("The 'next' of the previous page.")] long? before,
        [Description("The maximum number of jobs, from 1 to 100.")] int limit = 20
    )
    {
        JobStatus? only = Enum.TryParse<JobStatus>(status, ignoreCase: true, out var parsed) && Enum.IsDefined(parsed) ? parsed : null;
        if (status is not null && only is null)
        {
            return Problem("status", $"'{status}' is not a status; use queued, running, succeeded, failed or canceled.");
        }

        if (limit is < 1 or > 100)
        {
            return Problem("limit", $"The limit is {limit}; it must be from 1 to 100.");
        }

        if (search?.Length > StudioOptions.MaxPromptLength)
        {
            return Problem("search", $"The text has {search.Length} characters; at most {StudioOptions.MaxPromptLength} are allowed.");
        }

        var found = await store.ListAsync(context.GetUser(), search, only, before, limit + 1);
        var page = found.Take(limit).ToList();
        return TypedResults.Ok(new JobPage([.. page.Select(JobView.Of)], found.Count > limit ? page[^1].Number : null));

        static ValidationProblem Problem(string name, string problem) =>
            TypedResults.ValidationProblem(new Dictionary<string, string[]> { [name] = [problem] });
    }

    private static async Task<Results<Ok<JobView>, ProblemHttpResult>> GetAsync(Guid id, HttpContext context, JobService jobs) =>
        await jobs.FindAsync(id, context.GetUser()) is { } job ? TypedResults.Ok(JobView.Of(job)) : NotFound();

    private static async Task<Results<Ok<JobView>, ProblemHttpResult>> CancelAsync(Guid id, HttpContext context, JobService jobs) =>
        await jobs.FindAsync(id, context.GetUser()) is { } job ? TypedResults.Ok(JobView.Of(await jobs.CancelAsync(job))) : NotFound();

    private static async Task<Results<NoContent, ProblemHttpResult>> DeleteAsync(Guid id, HttpContext context, JobService jobs)
    {
        if (await jobs.FindAsync(id, context.GetUser()) is not { } job)
        {
            return NotFound();
        }

        return await jobs.DeleteAsync(job)
            ? TypedResults.NoContent()
            : TypedResults.Problem("The job has not finished. Cancel it first.", statusCode: StatusCodes.Status409Conflict);
    }

    private static Task<Results<PhysicalFileHttpResult, ProblemHttpResult>> GetVideoAsync(
        Guid id,
        HttpContext context,
        JobService jobs,
        IResultStore results,
        bool download = false
    ) => FileAsync($"{id}.mp4", "video/mp4", download ? $"{id}.mp4" : null, jobs.FindAsync(id, context.GetUser()), results, context.RequestAborted);

    private static Task<Results<PhysicalFileHttpResult, ProblemHttpResult>> GetPosterAsync(
        Guid id,
        HttpContext context,
        JobService jobs,
        IResultStore results
    ) => FileAsync($"{id}.png", "image/png", null, jobs.FindAsync(id, context.GetUser()), results, context.RequestAborted);

    private static async Task<Results<FileContentHttpResult, ProblemHttpResult>> GetPreviewAsync(
        Guid id,
        HttpContext context,
        JobService jobs,
        IJobStore store
    )
    {
        if (await jobs.FindAsync(id, context.GetUser()) is null)
        {
            return NotFound();
        }

        return await store.FindPreviewAsync(id) is { } preview
            ? TypedResults.Bytes(preview.Bytes, preview.ContentType)
            : TypedResults.Problem("This job does not have a preview.", statusCode: StatusCodes.Status404NotFound);
    }

    private static async Task<Results<PhysicalFileHttpResult, ProblemHttpResult>> FileAsync(
        string name,
        string type,
        string? download,
        Task<Job?> finding,
        IResultStore results,
        CancellationToken cancellationToken
    )
    {
        if (await finding is not { } job)
        {
            return NotFound();
        }

        return job.Status == JobStatus.Succeeded && await results.FindAsync(name, cancellationToken) is { } path
            ? TypedResults.PhysicalFile(path, type, download, new DateTimeOffset(File.GetLastWriteTimeUtc(path)), enableRangeProcessing: true)
            : TypedResults.Problem("This job does not have a video.", statusCode: StatusCodes.Status404NotFound);
    }

    private static ServerSentEventsResult<JobView?> GetEvents(
        HttpContext context,
        IJobStore store,
        JobEvents events,
        IHostApplicationLifetime lifetime
    )
    {
        var user = context.GetUser();
        return TypedResults.ServerSentEvents(ReadAsync(lifetime.ApplicationStopping, context.RequestAborted));

        async IAsyncEnumerable<SseItem<JobView?>> ReadAsync(CancellationToken stopping, [EnumeratorCancellation] CancellationToken aborted)
        {
            using var end = CancellationTokenSource.CreateLinkedTokenSource(stopping, aborted);
            using var subscription = events.Subscribe(user); // before the list is read, so that no change is missed
            foreach (var status in new[] { JobStatus.Running, JobStatus.Queued })
            {
                foreach (var job in await store.ListAsync(user, status: status, limit: int.MaxValue))
                {
                    yield return new(JobView.Of(job), "job");
                }
            }

            await foreach (var changes in subscription.ReadAsync(PingInterval, end.Token))
            {
                if (changes.Count == 0)
                {
                    yield return new(null, "ping");
                }

                foreach (var job in changes)
                {
                    yield return new(job, "job");
                }
            }
        }
    }

    private static async Task<Results<ServerSentEventsResult<JobView?>, ProblemHttpResult>> GetJobEventsAsync(
        Guid id,
        HttpContext context,
        JobService jobs,
        JobEvents events,
        IHostApplicationLifetime lifetime
    )
    {
        var user = context.GetUser();
        if (await jobs.FindAsync(id, user) is null)
        {
            return NotFound();
        }

        return TypedResults.ServerSentEvents(ReadAsync(lifetime.ApplicationStopping, context.RequestAborted));

        async IAsyncEnumerable<SseItem<JobView?>> ReadAsync(CancellationToken stopping, [EnumeratorCancellation] CancellationToken aborted)
        {
            using var end = CancellationTokenSource.CreateLinkedTokenSource(stopping, aborted);
            using var subscription = events.Subscribe(user, id);
            var current = await jobs.FindAsync(id, user);
            if (current is null)
            {
                yield break;
            }

            yield return new(JobView.Of(current), "job");
            if (current.IsFinished)
            {
                yield break;
            }

            await foreach (var changes in subscription.ReadAsync(PingInterval, end.Token))
            {
                if (changes.Count == 0)
                {
                    yield return new(null, "ping");
                }

                foreach (var job in changes)
                {
                    yield return new(job, "job");
                    if (job.Status is not (JobStatus.Queued or JobStatus.Running))
                    {
                        yield break;
                    }
                }
            }
        }
    }

    private static ProblemHttpResult NotFound() =>
        TypedResults.Problem("You do not have a job with this identifier.", statusCode: StatusCodes.Status404NotFound);
}
