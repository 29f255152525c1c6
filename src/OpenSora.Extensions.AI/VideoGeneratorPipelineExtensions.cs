using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using OpenSora.Generation;
using OpenSora.Media;

namespace OpenSora.Extensions.AI;

/// <summary>Extension methods that build pipelines of generators and convert generators to other interfaces.</summary>
public static class VideoGeneratorPipelineExtensions
{
    /// <summary>Creates a builder for a pipeline around a generator.</summary>
    /// <param name="innerGenerator">The generator at the end of the pipeline.</param>
    public static VideoGeneratorPipelineBuilder AsBuilder(this IVideoGenerator innerGenerator) => new(innerGenerator);

    /// <summary>Adds code that changes each request, such as defaults or limits of the application.</summary>
    /// <param name="builder">The builder.</param>
    /// <param name="configure">Changes the request, which is a copy of the caller's.</param>
    /// <returns>The builder.</returns>
    public static VideoGeneratorPipelineBuilder ConfigureRequest(this VideoGeneratorPipelineBuilder builder, Action<VideoRequest> configure)
    {
        ArgumentNullException.ThrowIfNull(builder);
        ArgumentNullException.ThrowIfNull(configure);
        return builder.Use(inner => new ConfigureRequestVideoGenerator(inner, configure));
    }

    /// <summary>Adds logging. Prompts and settings are logged at the level Trace only.</summary>
    /// <param name="builder">The builder.</param>
    /// <param name="loggerFactory">Creates the logger; null for the one of the services.</param>
    /// <param name="configure">Configures the generator that logs.</param>
    /// <returns>The builder.</returns>
    public static VideoGeneratorPipelineBuilder UseLogging(
        this VideoGeneratorPipelineBuilder builder,
        ILoggerFactory? loggerFactory = null,
        Action<LoggingVideoGenerator>? configure = null
    )
    {
        ArgumentNullException.ThrowIfNull(builder);
        return builder.Use(
            (inner, services) =>
            {
                var factory = loggerFactory ?? services.GetRequiredService<ILoggerFactory>();
                if (factory == NullLoggerFactory.Instance)
                {
                    return inner;
                }

                var generator = new LoggingVideoGenerator(inner, factory.CreateLogger<LoggingVideoGenerator>());
                configure?.Invoke(generator);
                return generator;
            }
        );
    }

    /// <summary>Adds a span and metrics for each generation, according to the semantic conventions of OpenTelemetry for generative AI.</summary>
    /// <param name="builder">The builder.</param>
    /// <param name="loggerFactory">Creates the logger for errors; null for the one of the services, if they have one.</param>
    /// <param name="sourceName">The name of the activity source and the meter; null for
    /// <see cref="OpenTelemetryVideoGenerator.DefaultSourceName"/>.</param>
    /// <param name="configure">Configures the generator that measures.</param>
    /// <returns>The builder.</returns>
    public static VideoGeneratorPipelineBuilder UseOpenTelemetry(
        this VideoGeneratorPipelineBuilder builder,
        ILoggerFactory? loggerFactory = null,
        string? sourceName = null,
        Action<OpenTelemetryVideoGenerator>? configure = null
    )
    {
        ArgumentNullException.ThrowIfNull(builder);
        return builder.Use(
            (inner, services) =>
            {
                var factory = loggerFactory ?? services.GetService<ILoggerFactory>();
                var generator = new OpenTelemetryVideoGenerator(inner, factory?.CreateLogger<OpenTelemetryVideoGenerator>(), sourceName);
                configure?.Invoke(generator);
                return generator;
            }
        );
    }

    /// <summary>Adds a cache. A request that was answered before is answered with the stored video.</summary>
    /// <param name="builder">The builder.</param>
    /// <param name="cache">Stores the videos; null for the <see cref="IDistributedCache"/> of the services.</param>
    /// <param name="configure">Configures the generator that caches.</param>
    /// <returns>The builder.</returns>
    public static VideoGeneratorPipelineBuilder UseDistributedCache(
        this VideoGeneratorPipelineBuilder builder,
        IDistributedCache? cache = null,
        Action<DistributedCachingVideoGenerator>? configure = null
    )
    {
        ArgumentNullException.ThrowIfNull(builder);
        return builder.Use(
            (inner, services) =>
            {
                var generator = new DistributedCachingVideoGenerator(inner, cache ?? services.GetRequiredService<IDistributedCache>());
                configure?.Invoke(generator);
                return generator;
            }
        );
    }

    /// <summary>Offers single frames of a generator as <see cref="IImageGenerator"/>.</summary>
    /// <remarks>
    /// <see cref="ImageGenerationOptions"/> are used as follows:
    /// <list type="bullet">
    /// <item><description><c>ImageSize</c>: the nearest size that the model supports.</description></item>
    /// <item><description><c>Count</c>: the number of images, with consecutive seeds.</description></item>
    /// <item><description><c>MediaType</c>: <c>image/png</c> (the default), <c>image/jpeg</c> or <c>image/webp</c>.</description></item>
    /// <item><description><c>ResponseFormat</c>: <c>Data</c> only, because images are not stored under an address.</description></item>
    /// <item><description><c>ModelId</c>: the name of the generator's model, or null.</description></item>
    /// <item><description><c>RawRepresentationFactory</c>: can return a <see cref="VideoRequest"/> with further settings, such as the seed. Its
    /// values take precedence over the options.</description></item>
    /// <item><description><c>StreamingCount</c>: has no effect, because <see cref="IImageGenerator"/> does not stream.</description></item>
    /// </list>
    /// The images have the type <see cref="DataContent"/>, and <see cref="ImageGenerationResponse.RawRepresentation"/> is the list of
    /// <see cref="GeneratedVideo"/>. Changing existing images is not supported. Disposing the image generator does not dispose the video generator.
    /// </remarks>
    /// <param name="generator">The generator.</param>
    [Experimental("MEAI001")]
    public static IImageGenerator AsImageGenerator(this IVideoGenerator generator) => new VideoImageGenerator(generator);

    private sealed class ConfigureRequestVideoGenerator(IVideoGenerator inner, Action<VideoRequest> configure) : DelegatingVideoGenerator(inner)
    {
        public override Task<GeneratedVideo> GenerateAsync(
            VideoRequest request,
            IProgress<GenerationProgress>? progress = null,
            CancellationToken cancellationToken = default
        ) => base.GenerateAsync(Configured(request), progress, cancellationToken);

        public override IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
            VideoRequest request,
            IProgress<GenerationProgress>? progress = null,
            CancellationToken cancellationToken = default
        ) => base.GenerateStreamingAsync(Configured(request), progress, cancellationToken);

        private VideoRequest Configured(VideoRequest request)
        {
            ArgumentNullException.ThrowIfNull(request);
            var copy = request.Clone();
            configure(copy);
            return copy;
        }
    }
}
