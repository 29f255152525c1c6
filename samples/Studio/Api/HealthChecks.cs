using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using OpenSora.Media;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Api;

/// <summary>Health checks: /health/live answers while the process runs, /health/ready if the application can generate videos.</summary>
internal static class HealthChecks
{
    private const long MinFreeBytes = 100L << 20;

    public static void AddStudioHealthChecks(this IServiceCollection services, StudioRole role)
    {
        var checks = services.AddHealthChecks().AddCheck<ModelCheck>("model").AddCheck<QueueCheck>("queue").AddCheck<DiskCheck>("disk");
        if (role != StudioRole.Web)
        {
            checks.AddCheck<FFmpegCheck>("ffmpeg");
        }
    }

    public static void MapStudioHealthChecks(this IEndpointRouteBuilder app)
    {
        app.MapHealthChecks("/health/live", new HealthCheckOptions { Predicate = _ => false });
        app.MapHealthChecks("/health/ready", new HealthCheckOptions { ResponseWriter = WriteAsync });
    }

    private static Task WriteAsync(HttpContext context, HealthReport report) =>
        context.Response.WriteAsJsonAsync(
            new
            {
                Status = report.Status.ToString(),
                Checks = report.Entries.ToDictionary(
                    each => each.Key,
                    each => new { Status = each.Value.Status.ToString(), each.Value.Description },
                    StringComparer.Ordinal
                ),
            }
        );

    private sealed class ModelCheck(ModelLoader model) : IHealthCheck
    {
        public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default) =>
            Task.FromResult(
                model.IsLoaded ? HealthCheckResult.Healthy("The model is loaded.")
                : model.Error is { } error ? HealthCheckResult.Unhealthy($"The model could not be loaded. {error}")
                : HealthCheckResult.Unhealthy("The model is being loaded.")
            );
    }

    private sealed class QueueCheck(IJobStore store) : IHealthCheck
    {
        public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
        {
            try
            {
                return HealthCheckResult.Healthy($"{await store.CountQueuedAsync()} jobs are waiting.");
            }
            catch (JobStoreUnavailableException e)
            {
                return HealthCheckResult.Unhealthy(e.Message);
            }
        }
    }

    private sealed class DiskCheck(IResultStore results) : IHealthCheck
    {
        public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default) =>
            Task.FromResult(
                results.FreeBytes < MinFreeBytes
                    ? HealthCheckResult.Degraded("Less than 100 MB of disk space is left for videos.")
                    : HealthCheckResult.Healthy()
            );
    }

    private sealed class FFmpegCheck(VideoWriter writer) : IHealthCheck
    {
        public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
        {
            try
            {
                writer.RequireSupport(VideoFormat.Mp4);
                return Task.FromResult(HealthCheckResult.Healthy());
            }
            catch (MediaException e)
            {
                return Task.FromResult(HealthCheckResult.Unhealthy(e.Message));
            }
        }
    }
}
