using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Runtime;

namespace OpenSora.Generation;

public sealed partial class VideoGenerator
{
    private ModelFolder? _folder;

    /// <summary>Gets an object that describes the generator. The model is not loaded; the first request for its folder, its description or the
    /// default settings reads <c>model.json</c>.</summary>
    /// <param name="serviceType">The type of the object: <see cref="VideoGenerator"/> or <see cref="IVideoGenerator"/> for the generator;
    /// <see cref="ModelFolder"/> and <see cref="ModelDescription"/> for its model; <see cref="GenerationSettings"/> for the settings of requests
    /// that do not set them, from the options and the model; <see cref="OpenSoraOptions"/> for a copy of the options;
    /// <see cref="IComputeBackend"/> for the backend; or <see cref="VideoWriter"/> for the writer of generated videos.</param>
    /// <param name="serviceKey">Must be null; the objects have no keys.</param>
    /// <returns>The object; null for other types.</returns>
    /// <exception cref="InvalidModelException">The model folder was changed after the generator was built, and is no longer valid.</exception>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType.IsInstanceOfType(this) ? this
            : serviceType == typeof(ModelFolder) ? Folder
            : serviceType == typeof(ModelDescription) ? Folder.Description
            : serviceType == typeof(GenerationSettings) ? RequestPlan.DefaultSettings(_options, Folder.Description)
            : serviceType == typeof(OpenSoraOptions) ? _options.Clone()
            : serviceType == typeof(IComputeBackend) ? _backends.Select(_options.Backend)
            : serviceType == typeof(VideoWriter) ? _writer
            : null;
    }

    private ModelFolder Folder => _folder ??= ModelFolder.Open(_options.Model ?? OpenSoraOptions.DefaultModel);
}
