// Studio: a page and an HTTP API that generate videos. Jobs/ has the queue, its database and its worker; Api/ the HTTP API; wwwroot/ the page.
using System.Text.Json;
using System.Text.Json.Serialization;
using OpenSora.Generation;
using OpenSora.Studio;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

await StudioApp.Create(args).RunAsync();

/// <summary>Wires the application. Tests replace services, such as the generator.</summary>
internal static class StudioApp
{
    public static WebApplication Create(string[] args, Action<IServiceCollection>? replace = null)
    {
        // wwwroot and appsettings.json are beside the program, wherever it is started.
        var builder = WebApplication.CreateBuilder(new WebApplicationOptions { Args = args, ContentRootPath = AppContext.BaseDirectory });
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Limits.MaxRequestBodySize = 64 * 1024);

        var services = builder.Services;
        services.AddOpenSora();
        services
            .AddOptions<StudioOptions>()
            .BindConfiguration(StudioOptions.SectionName)
            .ValidateDataAnnotations()
            .Validate(
                options => options.Role == StudioRole.Both || !string.IsNullOrEmpty(options.Redis),
                "Studio:Role is Web or Worker, but Studio:Redis is not set. Set it to the address of Redis, which connects the processes."
            )
            .ValidateOnStart();
        var section = builder.Configuration.GetSection(StudioOptions.SectionName);
        var role = section.GetValue<StudioRole>(nameof(StudioOptions.Role));
        services.AddStudioJobs(role, Has(nameof(StudioOptions.Redis)), Has(nameof(StudioOptions.S3Bucket)));
        services.AddSingleton<ModelInfo>();
        services.AddStudioLimits();
        services.AddStudioHealthChecks(role);
        services.AddProblemDetails();
        services.AddExceptionHandler<Errors>();
        services.Configure<RouteHandlerOptions>(options => options.ThrowOnBadRequest = true); // Errors.cs writes the reason
        services.ConfigureHttpJsonOptions(options =>
        {
            options.SerializerOptions.UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow; // a misspelled setting is an error
            options.SerializerOptions.NumberHandling = JsonNumberHandling.Strict;
            options.SerializerOptions.Converters.Add(new JsonStringEnumConverter(JsonNamingPolicy.CamelCase));
        });
        services.AddOpenApi(options =>
            options.AddDocumentTransformer(
                (document, _, _) =>
                {
                    document.Info.Title = "Studio";
                    document.Info.Description = "Generates videos from text. Without authentication, the cookie 'studio-user' identifies the user.";
                    return Task.CompletedTask;
                }
            )
        );
        replace?.Invoke(services);

        var app = builder.Build();
        app.UseExceptionHandler();
        app.UseStatusCodePages();
        app.Use(
            (context, next) =>
            {
                var headers = context.Response.Headers;
                headers.ContentSecurityPolicy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
                headers.XContentTypeOptions = "nosniff";
                headers["Referrer-Policy"] = "no-referrer";
                return next(context);
            }
        );
        app.MapStudioHealthChecks();
        if (role == StudioRole.Worker)
        {
            return app;
        }

        app.UseStudioUsers();
        app.UseRateLimiter();
        app.UseDefaultFiles();
        app.UseStaticFiles();
        app.MapOpenApi();
        app.MapStudioApi();
        return app;

        bool Has(string setting) => !string.IsNullOrEmpty(section[setting]);
    }

    private static void AddStudioJobs(this IServiceCollection services, StudioRole role, bool isShared, bool isInBucket)
    {
        // Hosted services start in this order.
        if (isShared)
        {
            services.AddSingleton<RedisConnection>();
            services.AddStore<RedisJobStore>();
        }
        else
        {
            services.AddStore<SqliteJobStore>();
        }

        services.AddSingleton<FolderResultStore>();
        services.AddSingleton<IResultStore>(provider =>
            isInBucket ? ActivatorUtilities.CreateInstance<S3ResultStore>(provider) : provider.GetRequiredService<FolderResultStore>()
        );
        services.AddSingleton<JobService>();
        services.AddSingleton<JobEvents>();
        services.AddHostedService(provider => provider.GetRequiredService<JobEvents>());
        services.AddSingleton<ModelLoader>();
        services.AddHostedService(provider => provider.GetRequiredService<ModelLoader>());
        if (role == StudioRole.Web)
        {
            services.AddSingleton<IVideoGenerator, RedisModelReader>();
            return;
        }

        services.AddHostedService<JobWorker>();
        if (isShared)
        {
            services.AddHostedService<RedisModelPublisher>();
        }
    }

    private static void AddStore<TStore>(this IServiceCollection services)
        where TStore : class, IJobStore, IHostedService
    {
        services.AddSingleton<TStore>();
        services.AddSingleton<IJobStore>(provider => provider.GetRequiredService<TStore>());
        services.AddHostedService(provider => provider.GetRequiredService<TStore>());
    }
}
