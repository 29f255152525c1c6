using System.Reflection;

namespace OpenSora.Runtime;

/// <summary>Chooses the backend when the program runs.</summary>
/// <remarks>
/// Besides the backends it is given, it knows those that referenced <c>OpenSora.*</c> assemblies offer by
/// <see cref="ComputeBackendAttribute"/>: a reference to the package is enough. A trimmed program, or one in a single file, keeps no
/// assembly that it does not name: there, add the backend in code (<c>AddOpenSora().AddCuda()</c>).
/// </remarks>
/// <param name="backends">What there is to choose from; of several with one name the last counts.</param>
public sealed class BackendSelector(IEnumerable<IComputeBackend> backends)
{
    /// <summary>The name that stands for the best of the available backends.</summary>
    public const string Auto = "auto";

    private readonly IComputeBackend[] _backends =
    [
        .. backends.GroupBy(b => b.Name, StringComparer.OrdinalIgnoreCase).Select(g => g.Last()).OrderByDescending(b => b.Priority),
    ];

    /// <summary>The CPU and whatever the referenced packages offer.</summary>
    public static BackendSelector Discover() => new([new CpuBackend(), .. Discovered.Value]);

    /// <summary>The backends that referenced assemblies offer.</summary>
    internal static Lazy<IReadOnlyList<IComputeBackend>> Discovered { get; } =
        new(() =>
            [
                .. ReferencedAssemblies()
                    .SelectMany(assembly => assembly.GetCustomAttributes<ComputeBackendAttribute>())
                    .Select(attribute => (IComputeBackend)Activator.CreateInstance(attribute.BackendType)!),
            ]
        );

    /// <summary>All backends, the preferred first, with what was found about each.</summary>
    public IReadOnlyList<(IComputeBackend Backend, BackendAvailability Availability)> Describe() =>
        [.. _backends.Select(b => (b, b.CheckAvailability()))];

    /// <summary>Takes the backend asked for, or the best.</summary>
    /// <param name="name">A backend's name; null or <see cref="Auto"/> for the best of the available ones.</param>
    /// <exception cref="BackendUnavailableException">There is none of that name, or it cannot be used here; the message says why.</exception>
    public IComputeBackend Select(string? name = null)
    {
        if (name is null || name.Equals(Auto, StringComparison.OrdinalIgnoreCase))
        {
            return _backends.FirstOrDefault(b => b.CheckAvailability().IsAvailable)
                ?? throw new BackendUnavailableException($"No backend can be used here. {Listing()}");
        }

        var backend = _backends.FirstOrDefault(b => b.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
            ?? throw new BackendUnavailableException($"There is no backend '{name}'. {Listing()} Is the package that brings it referenced?");
        var availability = backend.CheckAvailability();
        return availability.IsAvailable
            ? backend
            : throw new BackendUnavailableException($"Backend '{backend.Name}' cannot be used here: {availability.Reason} {Listing()}");
    }

    private string Listing() =>
        "Known backends: "
        + string.Join(
            "; ",
            Describe()
                .Select(d =>
                    $"{d.Backend.Name} ({(d.Availability.IsAvailable ? "available" : "not available")}: {d.Availability.Reason.TrimEnd('.')})"
                )
        )
        + ".";

    private static IEnumerable<Assembly> ReferencedAssemblies() =>
        ((AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") as string) ?? "")
            .Split(Path.PathSeparator)
            .Select(Path.GetFileNameWithoutExtension)
            .Where(name => name is not null && name.StartsWith("OpenSora.", StringComparison.Ordinal))
            .Select(name => Assembly.Load(new AssemblyName(name!)));
}

/// <summary>The backend asked for does not exist or cannot be used on this machine.</summary>
public sealed class BackendUnavailableException : InvalidOperationException
{
    /// <summary>Makes the exception.</summary>
    public BackendUnavailableException(string message)
        : base(message) { }
}
