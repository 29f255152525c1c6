using OpenSora.Diffusion;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>What a part of a generator is made from. It is a service provider as well, so that constructors may ask for it, for a device and for
/// services.</summary>
public sealed class PartContext : IServiceProvider
{
    private readonly IServiceProvider _services;

    internal PartContext(string modelPath, Device device, IServiceProvider services) =>
        (ModelPath, Device, this._services) = (modelPath, device, services);

    /// <summary>The model's folder.</summary>
    public string ModelPath { get; }

    /// <summary>Where the part's tensors belong.</summary>
    public Device Device { get; }

    /// <inheritdoc/>
    public object? GetService(Type serviceType) =>
        serviceType == typeof(PartContext) ? this
        : serviceType == typeof(Device) ? Device
        : _services.GetService(serviceType);
}

/// <summary>The parts that replace a model's own.</summary>
internal sealed class PartFactories
{
    internal Func<PartContext, IVideoAutoencoder>? Vae { get; set; }

    internal Func<PartContext, ITextEncoder>? TextEncoder { get; set; }

    internal Func<int, ISampler>? Sampler { get; set; }

    internal Architectures Architectures { get; set; } = Architectures.BuiltIn;

    internal PartFactories Clone() => (PartFactories)MemberwiseClone();
}
