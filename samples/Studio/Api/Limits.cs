using System.Globalization;
using System.Threading.RateLimiting;
using Microsoft.AspNetCore.RateLimiting;
using Microsoft.Extensions.Options;

namespace OpenSora.Studio.Api;

/// <summary>The limits of requests for each client. The limits of unfinished jobs are in <see cref="Jobs.IJobStore.AddAsync"/>.</summary>
internal static class Limits
{
    /// <summary>All requests.</summary>
    public const string Api = "api";

    /// <summary>Requests that submit a job.</summary>
    public const string Submit = "submit";

    /// <summary>Open event streams.</summary>
    public const string Events = "events";

    public static void AddStudioLimits(this IServiceCollection services)
    {
        services.AddRateLimiter(_ => { });
        services
            .AddOptions<RateLimiterOptions>()
            .Configure<IOptions<StudioOptions>>(
                (limiter, options) =>
                {
                    limiter.RejectionStatusCode = StatusCodes.Status429TooManyRequests;
                    limiter.OnRejected = RefuseAsync;
                    limiter.AddPolicy(Api, context => PerMinute(context, 1200));
                    limiter.AddPolicy(Submit, context => PerMinute(context, options.Value.MaxRequestsPerMinute));
                    limiter.AddPolicy(Events, context =>
                        RateLimitPartition.GetConcurrencyLimiter(context.GetClient(), _ => new ConcurrencyLimiterOptions
                        {
                            PermitLimit = 50,
                            QueueLimit = 0,
                        })
                    );
                }
            );
    }

    private static RateLimitPartition<string> PerMinute(HttpContext context, int limit) =>
        RateLimitPartition.GetSlidingWindowLimiter(context.GetClient(), _ => new SlidingWindowRateLimiterOptions
        {
            PermitLimit = limit,
            Window = TimeSpan.FromMinutes(1),
            SegmentsPerWindow = 6,
            QueueLimit = 0,
        });

    private static async ValueTask RefuseAsync(OnRejectedContext refused, CancellationToken cancellationToken)
    {
        var wait = refused.Lease.TryGetMetadata(MetadataName.RetryAfter, out var after) ? after : TimeSpan.FromSeconds(10);
        refused.HttpContext.Response.Headers.RetryAfter = Math.Ceiling(wait.TotalSeconds).ToString(CultureInfo.InvariantCulture);
        await TypedResults
            .Problem($"Too many requests. Try again in {Math.Ceiling(wait.TotalSeconds)} seconds.", statusCode: StatusCodes.Status429TooManyRequests)
            .ExecuteAsync(refused.HttpContext);
    }
}
