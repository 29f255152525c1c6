using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Runtime;

namespace OpenSora.DependencyInjection;

/// <summary>Configures the services that <c>AddOpenSora</c> registered.</summary>
public sealed class OpenSoraBuilder : GeneratorBuilder<OpenSoraBuilder>
{
    internal OpenSoraBuilder(IServiceCollection services, PartFactories parts)
        : base(parts) => Services = services;

    /// <summary>Gets the service collection that OpenSora was added to.</summary>
    public IServiceCollection Services { get; }

    /// <inheritdoc/>
    public override OpenSoraBuilder Configure(Action<OpenSoraOptions> configure)
    {
        Services.Configure(configure);
        return this;
    }

    /// <inheritdoc/>
    public override OpenSoraBuilder AddBackend(IComputeBackend backend)
    {
        ArgumentNullException.ThrowIfNull(backend);
        Services.AddSingleton(backend);
        return this;
    }

    /// <summary>Adds a backend that the service provider creates, replacing any backend with the same name.</summary>
    /// <typeparam name="T">The type of the backend.</typeparam>
    public OpenSoraBuilder AddBackend<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>()
        where T : class, IComputeBackend
    {
        Services.AddSingleton<IComputeBackend, T>();
        return this;
    }
}
