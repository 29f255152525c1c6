using OpenSora.Extensions.AI;
using OpenSora.Generation;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Extension methods that register pipelines of video generators.</summary>
public static class VideoGeneratorServiceCollectionExtensions
{
    /// <summary>Registers a singleton pipeline around a generator as <see cref="IVideoGenerator"/>.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="innerGenerator">The generator at the end of the pipeline.</param>
    /// <returns>A builder for the pipeline.</returns>
    public static VideoGeneratorPipelineBuilder AddVideoGenerator(this IServiceCollection services, IVideoGenerator innerGenerator)
    {
        ArgumentNullException.ThrowIfNull(innerGenerator);
        return services.AddVideoGenerator(_ => innerGenerator);
    }

    /// <summary>Registers a singleton pipeline around a generator that a function creates as <see cref="IVideoGenerator"/>, as in
    /// <c>services.AddVideoGenerator(p => p.GetRequiredService&lt;VideoGenerator&gt;())</c> after <c>AddOpenSora</c>.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="innerGeneratorFactory">Creates the generator at the end of the pipeline.</param>
    /// <returns>A builder for the pipeline.</returns>
    public static VideoGeneratorPipelineBuilder AddVideoGenerator(
        this IServiceCollection services,
        Func<IServiceProvider, IVideoGenerator> innerGeneratorFactory
    )
    {
        ArgumentNullException.ThrowIfNull(services);
        var builder = new VideoGeneratorPipelineBuilder(innerGeneratorFactory);
        services.AddSingleton<IVideoGenerator>(builder.Build);
        return builder;
    }

    /// <summary>Registers a singleton pipeline around a generator as <see cref="IVideoGenerator"/> with a key.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="serviceKey">The key.</param>
    /// <param name="innerGeneratorFactory">Creates the generator at the end of the pipeline.</param>
    /// <returns>A builder for the pipeline.</returns>
    public static VideoGeneratorPipelineBuilder AddKeyedVideoGenerator(
        this IServiceCollection services,
        object? serviceKey,
        Func<IServiceProvider, IVideoGenerator> innerGeneratorFactory
    )
    {
        ArgumentNullException.ThrowIfNull(services);
        var builder = new VideoGeneratorPipelineBuilder(innerGeneratorFactory);
        services.AddKeyedSingleton<IVideoGenerator>(serviceKey, (provider, _) => builder.Build(provider));
        return builder;
    }
}
