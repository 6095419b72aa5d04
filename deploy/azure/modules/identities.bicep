// One user-assigned identity for each process, so that each has its own rights and its own name in the database.
param location string
param name string
param registryName string

@description('An identity of its own for the queue-length scaler, which the container cannot use.')
param withScaler bool

var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d'

resource worker 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-worker'
  location: location
}

resource function 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-function'
  location: location
}

resource scaler 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = if (withScaler) {
  name: '${name}-scaler'
  location: location
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: registryName
}

resource pull 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, worker.id, acrPull)
  scope: registry
  properties: {
    principalId: worker.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
  }
}

output workerId string = worker.id
output workerName string = worker.name
output workerClientId string = worker.properties.clientId
output workerPrincipalId string = worker.properties.principalId
output functionId string = function.id
output functionName string = function.name
output functionClientId string = function.properties.clientId
output functionPrincipalId string = function.properties.principalId
output scalerId string = withScaler ? scaler.id : ''
output scalerPrincipalId string = withScaler ? scaler.properties.principalId : ''
