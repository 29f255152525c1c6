using OpenSora.Generation;

namespace OpenSora.Extensions.AI;

/// <summary>Builds a pipeline of generators around an inner one, as in
/// <c>generator.AsBuilder().UseLogging().UseDistributedCache().Build(services)</c>. The generator that is added first is the outermost: it sees a
/// request first and the result last.</summary>
public sealed class VideoGeneratorPipelineBuilder
{
    private readonly Func<IServiceProvider, IVideoGenerator> _inner;
    private readonly List<Func<IVideoGenerator, IServiceProvider, IVideoGenerator>> _layers = [];

    /// <summary>Initializes a builder for a pipeline around a generator.</summary>
    /// <param name="innerGenerator">The generator at the end of the pipeline.</param>
    public VideoGeneratorPipelineBuilder(IVideoGenerator innerGenerator)
    {
        ArgumentNullException.ThrowIfNull(innerGenerator);
        _inner = _ => innerGenerator;
    }

    /// <summary>Initializes a builder for a pipeline around a generator that a function creates.</summary>
    /// <param name="innerGeneratorFactory">Creates the generator at the end of the pipeline.</param>
    public VideoGeneratorPipelineBuilder(Func<IServiceProvider, IVideoGenerator> innerGeneratorFactory)
    {
        ArgumentNullException.ThrowIfNull(innerGeneratorFactory);
        _inner = innerGeneratorFactory;
    }

    /// <summary>Adds a generator to the pipeline, inside the ones that were added before.</summary>
    /// <param name="generatorFactory">Creates the generator around the given inner one.</param>
    /// <returns>This builder.</returns>
    public VideoGeneratorPipelineBuilder Use(Func<IVideoGenerator, IVideoGenerator> generatorFactory)
    {
        ArgumentNullException.ThrowIfNull(generatorFactory);
        return Use((inner, _) => generatorFactory(inner));
    }

    /// <summary>Adds a generator that depends on services to the pipeline, inside the ones that were added before.</summary>
    /// <param name="generatorFactory">Creates the generator around the given inner one, with the services passed to <see cref="Build"/>.</param>
    /// <returns>This builder.</returns>
    public VideoGeneratorPipelineBuilder Use(Func<IVideoGenerator, IServiceProvider, IVideoGenerator> generatorFactory)
    {
        ArgumentNullException.ThrowIfNull(generatorFactory);
        _layers.Add(generatorFactory);
        return this;
    }

    /// <summary>Creates the pipeline.</summary>
    /// <param name="services">The services for the generators of the pipeline; null for none.</param>
    /// <returns>The outermost generator. Disposing it disposes the others.</returns>
    /// <exception cref="InvalidOperationException">A function that was passed to the builder returned null, or a service is missing.</exception>
    public IVideoGenerator Build(IServiceProvider? services = null)
    {
        services ??= NoServices.Instance;
        var generator = _inner(services)
            ?? throw new InvalidOperationException("The function that creates the inner generator returned null instead of a generator.");
        for (var i = _layers.Count - 1; i >= 0; i--)
        {
            generator = _layers[i](generator, services)
                ?? throw new InvalidOperationException(
                    $"The function that was passed to call {i + 1} of {nameof(Use)} returned null; it must return a generator."
                );
        }

        return generator;
    }

    private sealed class NoServices : IServiceProvider
    {
        public static readonly NoServices Instance = new();

        public object? GetService(Type serviceType) => null;
    }
}
