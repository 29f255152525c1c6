using Microsoft.Extensions.Logging;
using OpenSora.Diffusion;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>The context in which a part of a generator, such as an autoencoder, is created. It is also a service provider, so constructors can
/// have parameters of type <see cref="PartContext"/>, <see cref="TorchSharp.torch.Device"/> or any registered service.</summary>
public sealed class PartContext : IServiceProvider
{
    private readonly IServiceProvider _services;

    internal PartContext(string modelPath, Device device, IServiceProvider services) =>
        (ModelPath, Device, _services) = (modelPath, device, services);

    /// <summary>Gets the path of the model folder.</summary>
    public string ModelPath { get; }

    /// <summary>Gets the device for the tensors of the part.</summary>
    public Device Device { get; }

    /// <inheritdoc/>
    public object? GetService(Type serviceType) =>
        serviceType == typeof(PartContext) ? this
        : serviceType == typeof(Device) ? Device
        : _services.GetService(serviceType);
}

/// <summary>Factories of the custom parts that replace the model's own parts.</summary>
internal sealed class PartFactories
{
    internal Func<PartContext, IVideoAutoencoder>? Vae { get; set; }

    internal Func<PartContext, ITextEncoder>? TextEncoder { get; set; }

    internal Func<int, ISampler>? Sampler { get; set; }

    internal ILogger? Logger { get; set; }

    internal Architectures Architectures { get; set; } = Architectures.BuiltIn;

    internal PartFactories Clone() => (PartFactories)MemberwiseClone();
}
