using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.Media;
using OpenSora.Runtime;

namespace OpenSora.Generation;

/// <summary>Builds a <see cref="VideoGenerator"/> without dependency injection.</summary>
public sealed class VideoGeneratorBuilder : GeneratorBuilder<VideoGeneratorBuilder>
{
    private readonly OpenSoraOptions _options = new();
    private readonly List<IComputeBackend> _backends = [new CpuBackend(), .. BackendSelector.Discovered.Value];
    private ILogger? _logger;

    internal VideoGeneratorBuilder()
        : base(new PartFactories()) { }

    /// <inheritdoc/>
    public override VideoGeneratorBuilder Configure(Action<OpenSoraOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        configure(_options);
        return this;
    }

    /// <inheritdoc/>
    public override VideoGeneratorBuilder AddBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        _backends.Add(backend);
        return this;
    }

    /// <summary>Sets the logger of the generator.</summary>
    /// <param name="value">The logger.</param>
    public VideoGeneratorBuilder UseLogger(ILogger value)
    {
        _logger = value;
        return this;
    }

    /// <summary>Validates the options and creates the generator. The model is loaded when it is first needed.</summary>
    /// <exception cref="OptionsValidationException">An option is not valid; the message lists all problems.</exception>
    /// <exception cref="BackendUnavailableException">The backend is not available on this machine.</exception>
    public VideoGenerator Build()
    {
        if (_options.Problems().ToList() is { Count: > 0 } problems)
        {
            throw new OptionsValidationException(nameof(OpenSoraOptions), typeof(OpenSoraOptions), problems);
        }

        var selector = new BackendSelector(_backends);
        selector.Select(_options.Backend);
        return new VideoGenerator(
            _options,
            Parts.Clone(),
            selector,
            new VideoWriter(_options.FFmpegFolder),
            new ImageCodec(_options.FFmpegFolder),
            NoServices.Instance,
            _logger
        );
    }

    private sealed class NoServices : IServiceProvider
    {
        public static readonly NoServices Instance = new();

        public object? GetService(Type serviceType) => null;
    }
}
