using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using OpenSora.Diffusion;
using OpenSora.Distributed;
using OpenSora.ModelFolders;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The services of a custom part: the <see cref="ModelFolder"/> and the <see cref="Device"/> of the generator, and the services of the
/// application.</summary>
internal sealed class PartServices(ModelFolder folder, Device device, IServiceProvider services) : IServiceProvider, IServiceProviderIsService
{
    /// <inheritdoc/>
    public object? GetService(Type serviceType) =>
        serviceType == typeof(ModelFolder) ? folder
        : serviceType == typeof(Device) ? device
        : serviceType == typeof(IServiceProviderIsService) ? this
        : services.GetService(serviceType);

    /// <inheritdoc/>
    public bool IsService(Type serviceType) =>
        serviceType == typeof(ModelFolder)
        || serviceType == typeof(Device)
        || services.GetService<IServiceProviderIsService>()?.IsService(serviceType) is true;
}

/// <summary>Factories of the custom parts that replace the model's own parts.</summary>
internal sealed class PartFactories
{
    internal Func<IServiceProvider, IVideoAutoencoder>? Vae { get; set; }

    internal Func<IServiceProvider, ITextEncoder>? TextEncoder { get; set; }

    internal Func<int, ISampler>? Sampler { get; set; }

    internal ICollectives? Collectives { get; set; }

    internal ILogger? Logger { get; set; }

    internal Architectures Architectures { get; set; } = Architectures.BuiltIn;

    internal PartFactories Clone() => (PartFactories)MemberwiseClone();
}
